"""A workdir in a bucket of Google Cloud Storage, which an emulator keeps in this process."""

import contextlib
import functools
import http.server
import json
import os
import ssl
import threading
from http import HTTPStatus

import pytest
import trustme
from etils import epath
from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage
from google.cloud import storage

from dmmd_jax import integrity, lock, lock_holder, runs
from dmmd_jax import workdir as workdirs
from dmmd_jax.config import ConfigError
from tests.conftest import ONE_DEVICE
from tests.test_main import TINY, run_main


class Handler(server.RequestHandler):
  """The emulator's, with what tensorflow and tensorstore need beyond it."""

  protocol_version = "HTTP/1.1"

  def parse_request(self):
    parsed = super().parse_request()
    self.close_connection = True
    if parsed and self.headers.get("Transfer-Encoding") == "chunked":
      del self.headers["Content-Length"]  # tensorflow sends both; this one does not count
    return parsed

  def send_header(self, name, value):
    # Sessions of uploads go on where they began, which only a proxy can see.
    super().send_header(name, value.replace("http://www.googleapis", "https://www.googleapis"))

  def end_headers(self):
    """Says that the connection is not kept: a client that used it again would be cut off."""
    if self.command != "CONNECT":
      self.send_header("Connection", "close")
    super().end_headers()

  def do_CONNECT(self):  # noqa: N802
    """What tensorflow means for googleapis.com, which it lets nobody rename, ends here too."""
    self.send_response(HTTPStatus.OK)
    self.end_headers()
    connection = self.server.tls.wrap_socket(self.connection, server_side=True)
    type(self)(self.storage, connection, self.client_address, self.server)


def read_data(read, handler, query):
  """An upload of nothing, such as the marker of a folder, is one too."""
  return read(handler, query) or (b"" if "media" in query.get("uploadType", ()) else None)


def download(read, request, response, storage):
  """Tells the generation, by which tensorstore knows what has changed."""
  read(request, response, storage)
  if response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
    names = request.params["bucket_name"], request.params["object_id"]
    generation = storage.get_file_obj(*names)["generation"]
    response["X-Goog-Generation"] = generation
    if generation in request.query.get("ifGenerationNotMatch", ()):
      response.status = HTTPStatus.NOT_MODIFIED
      response.write_file(b"")


UPLOADS = threading.Lock()


def upload(write, request, response, storage):
  """Refuses to write over another generation than the one named; 0 is none."""
  wanted = request.query.get("ifGenerationMatch")
  with UPLOADS:
    try:
      names = request.params["bucket_name"], request.data["meta"]["name"]
      found = storage.get_file_obj(*names)["generation"]
    except NotFound:
      found = "0"
    if wanted and found != wanted[0]:
      response.status = HTTPStatus.PRECONDITION_FAILED
    else:
      write(request, response, storage)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  """The bucket `runs`; the environment leads every client to it, without credentials."""
  monkeypatch.setattr(server, "_read_data", functools.partial(read_data, server._read_data))
  monkeypatch.setattr(objects, "download", functools.partial(download, objects.download))
  upload_one = functools.partial(upload, objects._multipart_upload)
  monkeypatch.setattr(objects, "_multipart_upload", upload_one)
  kept = Storage(use_memory_fs=True)
  buckets.create_bucket("runs", kept)
  httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, kept))
  authority = trustme.CA()
  authority.cert_pem.write_to_path(tmp_path / "authority.pem")
  httpd.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  authority.issue_cert("*.googleapis.com").configure_cert(httpd.tls)
  threading.Thread(target=httpd.serve_forever).start()
  url = f"http://127.0.0.1:{httpd.server_port}"
  for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "https_proxy"):
    monkeypatch.setenv(name, url)
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "authority.pem"))
  without_credentials(monkeypatch, tmp_path)
  with httpd:
    yield storage.Client().bucket("runs")
    httpd.shutdown()


def without_credentials(monkeypatch, folder):
  monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
  monkeypatch.setenv("CLOUDSDK_CONFIG", str(folder))
  monkeypatch.setenv("NO_GCE_CHECK", "true")


def test_a_run_in_a_bucket_leaves_all_that_it_leaves_in_a_folder(bucket):
  killed = bucket.blob("mine/teacher/checkpoints/20/default/d/1")
  for blob in (killed, bucket.blob("mine/teacher/checkpoints/20/")):  # no whole checkpoint
    blob.upload_from_string(b"")
  for name in ("default/d/1", "_CHECKPOINT_METADATA", "commit_success.txt"):  # a damaged one
    bucket.blob(f"mine/teacher/checkpoints/15/{name}").upload_from_string(b"garbage")
  stale = bucket.blob("mine/evaluate/samples_teacher_7.npz")
  stale.upload_from_string(b"of an earlier evaluation")
  bucket.blob("mine/lock").upload_from_string(json.dumps(lock_holder.identity() | {"started": "1"}))
  done = run_main(
    *TINY,
    "--config.phases=('teacher','evaluate')",
    "--config.run.checkpoint_every=10",
    "--config.run.log_every=10",
    "--config.evaluate.teacher_nfe=(1,)",
    "--workdir=gs://runs/mine",
    **ONE_DEVICE,
  )
  assert done.returncode == 0, done.stderr
  assert "complete" not in done.stdout and "20/20" in done.stderr and not killed.exists()
  sizes = {blob.name.removeprefix("mine/"): blob.size for blob in bucket.list_blobs(prefix="mine/")}
  assert {f"teacher/checkpoints/{step}/commit_success.txt" for step in (10, 20)} <= set(sizes)
  assert not stale.exists()
  for name in (
    "results.json", "results.md", "quality_vs_nfe.png", "samples_teacher.png", "report.html",
    "film.gif", "samples_teacher_1.npz", "samples_real.npz",
  ):  # fmt: skip
    assert sizes[f"evaluate/{name}"] > 100
  (log,) = (name for name in sizes if name.startswith("teacher/tensorboard/events"))
  assert sizes[log] > 200  # more than its head
  assert "damaged checkpoints of gs://runs/mine/teacher/checkpoints: 15 (" in done.stderr
  assert sizes["teacher/damaged/15/default/d/1"] == len("garbage") and "lock" not in sizes
  recorded = json.loads(bucket.blob("mine/teacher/config.json").download_as_bytes())
  assert recorded["config"]["teacher"]["num_steps"] == 20
  teacher = epath.Path("gs://runs/mine/teacher")
  files = integrity.read_json(teacher / "record.json")["result"]["files"]
  assert len(files) > 10 and not integrity.find_damage(teacher, files)
  assert not [name for name in files if name.endswith("/")]  # no file, but a mark of a folder
  (workdir,) = runs.find(workdirs.locate("gs://runs"))
  assert runs.name_of(workdir, epath.Path("gs://runs")) == "mine"
  states = {name: (phase.state, phase.step) for name, phase in runs.read(workdir).items()}
  assert states == {"teacher": ("complete", 20), "evaluate": ("complete", 0)}
  bucket.blob("mine/teacher/checkpoints/20/commit_success.txt").delete()
  missing = "checkpoints/20/commit_success.txt is missing"
  assert integrity.find_damage(teacher, files) == missing


def test_a_bucket_has_one_run_at_a_time(bucket, monkeypatch):
  monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.6)
  workdir, blob = epath.Path("gs://runs/mine"), bucket.blob("mine/lock")
  elsewhere = json.dumps(lock_holder.identity() | {"host": "elsewhere", "pid": 7})
  blob.upload_from_string(elsewhere)
  finished = threading.Event()

  def beat():
    while not finished.wait(0.1):
      blob.upload_from_string(elsewhere)

  other = threading.Thread(target=beat)
  other.start()
  with pytest.raises(ConfigError, match="in use by process 7 on elsewhere"), lock.hold(workdir):
    pass
  finished.set()
  other.join()
  with (
    lock.hold(workdir),
    pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"),
    lock.hold(workdir),
  ):
    pass
  assert not blob.exists()


def test_of_many_that_find_a_dead_lock_in_a_bucket_one_wins(bucket):
  dead = json.dumps(lock_holder.identity() | {"started": "1"})
  bucket.blob("mine/lock").upload_from_string(dead)
  entries = [lock._Blob("gs://runs/mine") for _ in range(4)]
  found, won = [entry.read() for entry in entries], []
  assert [text for text, _ in found] == [dead] * 4
  for i, entry in enumerate(entries):
    with contextlib.suppress(lock._ChangedError):
      won.append(entry.write(f"mine {i}", found[i][1]))
  assert len(won) == 1 and entries[0].read() == ("mine 0", won[0])
  assert entries[0].touch(won[0]) != won[0]
  with pytest.raises(lock._ChangedError):
    entries[1].touch(won[0])


@pytest.mark.parametrize("name", ["s3://runs/mine", "gs://", "gs:///runs"])
def test_other_storage_is_refused(name):
  with pytest.raises(ConfigError, match="expected a folder or gs://bucket/folder"):
    workdirs.locate(name)


def test_a_bucket_has_to_exist_and_to_grant_what_a_run_does(bucket, monkeypatch):
  with pytest.raises(ConfigError, match="there is no bucket absent"):
    workdirs.locate("gs://absent/mine")
  monkeypatch.setattr(
    storage.Bucket, "test_iam_permissions", lambda self, asked: [n for n in asked if "get" in n]
  )
  with pytest.raises(ConfigError, match=r"runs does not grant storage.objects.list; expected"):
    workdirs.locate("gs://runs/mine")
  with pytest.raises(ConfigError, match=r"storage.objects.create, storage.objects.delete"):
    workdirs.locate("gs://runs/mine", write=True)


def test_a_bucket_without_credentials_is_one_line(monkeypatch, tmp_path):
  without_credentials(monkeypatch, tmp_path)
  monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
  done = run_main(*TINY, "--workdir=gs://runs/mine")
  assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
  assert "cannot reach gs://runs/mine with the credentials of" in done.stderr
