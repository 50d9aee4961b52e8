"""Broken streams, killed processes, full and damaged stores: nothing acknowledged is lost, and the service goes on."""

import os
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from common.errors import DataLoss, MeshError
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.registry.v1 import registry_pb2
from services.ingest.samples import SHARD_SAMPLES
from tests.harness.processes import wait_until
from tests.services.ingest.client import BLOBS, NUMBERS, IngestClient, blob, messages, number
from tests.services.ingest.conftest import IngestMesh, start_ingest

pytestmark = pytest.mark.faults

SAMPLES = [number(i, "test" if i % 3 == 0 else "train") for i in range(6000)]

needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


def undisturbed(client: IngestClient, samples: list[ingest_pb2.Sample]) -> registry_pb2.DatasetVersion:
    """The version that an upload in one go makes."""
    upload = client.create("undisturbed", NUMBERS)
    client.send(upload, samples)
    return client.commit(upload)


def plain(mesh: IngestMesh) -> ingest_pb2_grpc.IngestServiceStub:
    """A stub without anything of ours, whose calls can be cancelled."""
    return ingest_pb2_grpc.IngestServiceStub(mesh.ingest.plain_channel())


def cut_off(
    client: IngestClient, upload: str, samples: list[ingest_pb2.Sample], sent: threading.Event, hold: threading.Event
) -> Iterator[ingest_pb2.UploadSamplesRequest]:
    """A stream that goes on from what is durable, sets `sent` after its last sample and stays open until `hold`."""
    offset = client.state(upload).num_samples
    yield from messages(upload, samples[offset:], offset=offset, sizes=(10,))
    sent.set()
    hold.wait(60)


def test_an_upload_cancelled_half_way_goes_on_to_the_same_version(mesh: IngestMesh, client: IngestClient) -> None:
    expected, blobs = undisturbed(client, SAMPLES), mesh.blobs()
    upload = client.create("undisturbed", NUMBERS)
    for cut in (10, 1700, 4100):
        sent, hold = threading.Event(), threading.Event()
        call = plain(mesh).UploadSamples.future(cut_off(client, upload, SAMPLES[:cut], sent, hold))
        assert sent.wait(30)
        call.cancel()
        hold.set()
        assert client.resume(upload, SAMPLES[: cut + 5]).num_samples == cut + 5
    assert client.resume(upload, SAMPLES).num_samples == len(SAMPLES)
    assert client.commit(upload) == expected
    assert mesh.blobs() == blobs


def test_an_upload_whose_client_was_killed_goes_on_to_the_same_version(mesh: IngestMesh, client: IngestClient) -> None:
    expected, blobs = undisturbed(client, SAMPLES), mesh.blobs()
    upload = client.create("undisturbed", NUMBERS)
    program = textwrap.dedent(
        f"""
        import threading
        from common.channel import open_channel
        from tests.services.ingest.client import IngestClient, messages, number

        samples = [number(i, "test" if i % 3 == 0 else "train") for i in range(2500)]

        def endless():
            yield from messages({upload!r}, samples, sizes=(100,))
            threading.Event().wait()

        channel = open_channel({mesh.ingest.address!r})
        IngestClient(channel, channel).ingest.UploadSamples(endless())
        """
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            wait_until(lambda: client.state(upload).num_samples >= SHARD_SAMPLES, "the client's first samples")
        finally:
            process.kill()
    assert client.resume(upload, SAMPLES).num_samples == len(SAMPLES)
    assert client.commit(upload) == expected
    assert mesh.blobs() == blobs


def test_an_upload_survives_the_service_being_killed_at_any_moment(own_mesh: IngestMesh) -> None:
    expected, blobs = undisturbed(own_mesh.client(), SAMPLES), own_mesh.blobs()
    upload = own_mesh.client().create("undisturbed", NUMBERS)
    draw, durable = random.Random(0), 0
    for _ in range(3):
        client, reached = own_mesh.client(), threading.Event()
        target = durable + draw.randrange(300, 2000)

        def watched(
            offset: int = durable, target: int = target, reached: threading.Event = reached
        ) -> Iterator[ingest_pb2.UploadSamplesRequest]:
            for i, message in enumerate(messages(upload, SAMPLES[offset:], offset=offset, sizes=(10,))):
                if offset + 10 * i >= target:
                    reached.set()
                yield message

        failed: list[str] = []

        def send(requests: Iterator[ingest_pb2.UploadSamplesRequest], client: IngestClient = client) -> None:
            try:
                client.ingest.UploadSamples(requests, timeout=60)
            except MeshError as error:
                failed.append(error.code)  # noqa: B023  read after the thread has ended

        sender = threading.Thread(target=send, args=(watched(),))
        sender.start()
        assert reached.wait(30)
        own_mesh.ingest.kill()
        own_mesh.ingest.start()
        sender.join(60)
        state = own_mesh.client().state(upload)
        assert state.num_samples >= durable
        assert failed in ([], ["UNAVAILABLE"])
        assert failed or state.num_samples == len(SAMPLES)
        durable = state.num_samples
    client = own_mesh.client()
    client.resume(upload, SAMPLES)
    assert client.commit(upload).manifest == expected.manifest
    assert own_mesh.blobs() == blobs


def test_a_polite_stop_keeps_what_an_open_stream_has_sent(own_mesh: IngestMesh) -> None:
    client = own_mesh.client()
    upload, sent, hold = client.create("drain", NUMBERS), threading.Event(), threading.Event()
    created = client.state(upload)
    call = plain(own_mesh).UploadSamples.future(cut_off(client, upload, SAMPLES[:500], sent, hold))
    assert sent.wait(30)
    wait_until(lambda: client.state(upload).update_time != created.update_time, "the stream to be accepted")
    own_mesh.ingest.stop()  # the stream stays open through the whole drain, so everything sent has arrived
    hold.set()
    assert call.exception(30) is not None
    own_mesh.ingest.start()
    assert own_mesh.client().state(upload).num_samples == 500


def test_a_second_stream_takes_an_upload_over_and_the_first_fails(mesh: IngestMesh, client: IngestClient) -> None:
    upload, sent, go_on = client.create("two-streams", NUMBERS), threading.Event(), threading.Event()
    errors: list[MeshError] = []

    def first() -> Iterator[ingest_pb2.UploadSamplesRequest]:
        yield from messages(upload, SAMPLES[:SHARD_SAMPLES], sizes=(64,))
        sent.set()
        go_on.wait(30)
        yield ingest_pb2.UploadSamplesRequest(samples=SAMPLES[SHARD_SAMPLES : SHARD_SAMPLES + 5])

    def send() -> None:
        try:
            mesh.client().ingest.UploadSamples(first(), timeout=60)
        except MeshError as error:
            errors.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    assert sent.wait(30)
    wait_until(lambda: client.state(upload).num_samples == SHARD_SAMPLES, "the first stream's shard")
    client.send(upload, SAMPLES[SHARD_SAMPLES:], offset=SHARD_SAMPLES)
    go_on.set()
    sender.join(60)
    assert [(error.code, error.reason, error.field) for error in errors] == [("ABORTED", "UPLOAD_TAKEN_OVER", "upload")]
    assert client.commit(upload).manifest == undisturbed(client, SAMPLES).manifest


def test_two_clients_that_send_the_same_at_once_cannot_mix(mesh: IngestMesh, client: IngestClient) -> None:
    upload, barrier = client.create("race", NUMBERS), threading.Barrier(4)
    outcomes: list[str] = []

    def send() -> None:
        own = mesh.client()
        barrier.wait(30)
        try:
            own.send(upload, SAMPLES[:3000], sizes=(50,))
            outcomes.append("OK")
        except MeshError as error:
            outcomes.append(error.reason)

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    assert outcomes.count("OK") == 1
    assert set(outcomes) <= {"OK", "UPLOAD_TAKEN_OVER", "OFFSET_MISMATCH"}
    assert client.commit(upload).manifest == undisturbed(client, SAMPLES[:3000]).manifest


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.mark.parametrize(("harm", "reason"), [(damage, "BLOB_DAMAGED"), (Path.unlink, "BLOB_NOT_FOUND")])
def test_a_harmed_shard_is_never_read_and_equal_data_heals_it(
    mesh: IngestMesh, client: IngestClient, harm: Callable[[Path], None], reason: str
) -> None:
    before = mesh.blobs()
    samples = [number(i, split) for i, split in enumerate(["train"] * 1500 + ["test"] * 5)]
    for sample in samples:
        sample.key = f"{reason}-{sample.key}"
    upload = client.create("harmed", NUMBERS)
    client.send(upload, samples)
    version = client.commit(upload)
    paths = [mesh.store / "default" / "sha256" / name[:2] / name for name in mesh.blobs() - before]
    second_shard = sorted(paths, key=lambda path: path.stat().st_size)[-2]
    harm(second_shard)
    with pytest.raises(DataLoss) as caught:
        list(client.read(version.name))
    assert caught.value.reason == reason
    assert sum(len(message.samples) for message in client.read(version.name, "test")) == 5
    again = client.create("harmed", NUMBERS)
    client.send(again, samples)
    assert client.commit(again) == version
    assert sum(len(message.samples) for message in client.read(version.name)) == 1500


@pytest.fixture
def small_store(tmp_path: Path) -> Iterator[IngestMesh]:
    """A mesh whose store is a file system of 4 MiB, which only ingest sees and which ends with it."""
    store = tmp_path / "store"
    store.mkdir()
    program = f'mount -t tmpfs -o size=4m,mode=700 tmpfs {store} && exec "$@"'
    with ExitStack() as owned:
        yield start_ingest(
            tmp_path / "home",
            owned,
            prefix=["unshare", "--mount", "sh", "-c", program, "sh"],
            store_url=f"file://{store}",
        )


def remount(mesh: IngestMesh, store: Path, options: str) -> None:
    """Changes the file system that ingest has as its store."""
    inside = ["nsenter", "--target", str(mesh.ingest.pid), "--mount"]
    subprocess.run([*inside, "mount", "-o", f"remount,{options}", str(store)], check=True)


BIG = [blob(i, 8 << 10) for i in range(1100)]


@needs_mount
@pytest.mark.parametrize(
    ("harm", "relief", "code", "reason"),
    [
        ("size=4m", "size=64m", "RESOURCE_EXHAUSTED", "STORE_FULL"),
        ("ro", "rw,size=64m", "FAILED_PRECONDITION", "STORE_READ_ONLY"),
    ],
)
def test_a_store_that_takes_nothing_fails_the_stream_and_later_the_upload_goes_on(
    small_store: IngestMesh, tmp_path: Path, harm: str, relief: str, code: str, reason: str
) -> None:
    client = small_store.client()
    upload = client.create("store", BLOBS)
    client.send(upload, BIG[:100])
    remount(small_store, tmp_path / "store", harm)
    with pytest.raises(MeshError) as caught:
        client.send(upload, BIG[100:], offset=100)
    assert (caught.value.code, caught.value.reason, caught.value.field) == (code, reason, "store")
    assert client.state(upload).num_samples == 100
    remount(small_store, tmp_path / "store", relief)
    client.send(upload, BIG[100:], offset=100)
    version = client.commit(upload)
    assert [s.key for message in client.read(version.name) for s in message.samples] == [s.key for s in BIG]


@needs_mount
@pytest.mark.parametrize(
    ("harm", "code", "reason"),
    [("size=4m", "RESOURCE_EXHAUSTED", "STORE_FULL"), ("ro", "FAILED_PRECONDITION", "STORE_READ_ONLY")],
)
def test_a_commit_into_a_store_that_takes_nothing_publishes_nothing_and_can_be_repeated(
    small_store: IngestMesh, tmp_path: Path, harm: str, code: str, reason: str
) -> None:
    client = small_store.client()
    upload = client.create("store", BLOBS)
    client.send(upload, BIG[:1000])
    remount(small_store, tmp_path / "store", harm)
    with pytest.raises(MeshError) as caught:
        client.wait(client.start_commit(upload))
    assert (caught.value.code, caught.value.reason, caught.value.field) == (code, reason, "store")
    with pytest.raises(MeshError) as caught:
        client.num_versions("store")
    assert caught.value.reason == "DATASET_NOT_FOUND"
    assert client.state(upload).state == ingest_pb2.UPLOAD_STATE_OPEN
    remount(small_store, tmp_path / "store", "rw,size=64m")
    assert client.commit(upload).num_samples == 1000


@pytest.fixture
def _few_arenas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps glibc from holding freed memory once per thread in a mesh that starts after this."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")


@pytest.mark.usefixtures("_few_arenas")
def test_memory_does_not_grow_with_the_upload(own_mesh: IngestMesh) -> None:
    client = own_mesh.client()
    status = Path(f"/proc/{own_mesh.ingest.pid}/status")

    def peak_mib() -> int:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) >> 10

    upload = client.create("large", BLOBS)
    client.send(upload, (blob(i, 1 << 20) for i in range(80)), sizes=(4,))
    before = peak_mib()
    client.send(upload, (blob(i, 1 << 20) for i in range(80, 400)), offset=80, sizes=(4,))
    client.commit(upload)
    assert peak_mib() - before < 160, "320 MiB more were sent, and memory grew with them"


def test_streams_that_wait_do_not_keep_unary_calls_from_being_answered(mesh: IngestMesh, client: IngestClient) -> None:
    hold = threading.Event()
    uploads = [client.create("waiting", NUMBERS) for _ in range(20)]

    def held(upload: str) -> Iterator[ingest_pb2.UploadSamplesRequest]:
        yield from messages(upload, SAMPLES[:3])
        hold.wait(60)

    stub = plain(mesh)
    calls: list[grpc.Future[ingest_pb2.UploadSamplesResponse]] = [
        stub.UploadSamples.future(held(upload)) for upload in uploads
    ]
    try:
        for upload in uploads:
            assert client.state(upload).name == upload
    finally:
        hold.set()
    for call in calls:
        call.result(60)
    assert {client.state(upload).num_samples for upload in uploads} == {3}
