"""The descriptor pool of the Open Inference Protocol's messages, which generated code uses instead of the default one.

Clients of other servers (tritonclient, kserve, mlserver) register the names under `inference` in protobuf's default
pool, which refuses a second definition. With its own pool our module can share a process with them; the names on the
wire are those of the protocol. deploy/setup/protos.sh replaces the import of `google.protobuf.descriptor_pool` by this
module. protobuf's pure Python runtime keeps one list of messages for all pools, so there the conflict remains.
"""

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from protos.auth.v1 import auth_pb2

_POOL = DescriptorPool()
for _file in (descriptor_pb2.DESCRIPTOR, auth_pb2.DESCRIPTOR):
    _POOL.AddSerializedFile(_file.serialized_pb)


def Default() -> DescriptorPool:
    """Returns the pool. The name is the one that generated code uses."""
    return _POOL
