"""Options with which ONNX Runtime runs a model, on a server, in an export or import, and on a client."""

import onnxruntime


def session_options(num_threads: int = 1) -> onnxruntime.SessionOptions:
    """Returns options for a session that runs one operator at a time.

    Its threads do not spin while they wait, because other sessions need the cores. Errors are raised, not logged.

    Args:
        num_threads: Number of threads per operator.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return options
