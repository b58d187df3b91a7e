"""A bundle as a static folder: a page that scores in the browser, and the JavaScript package that it is made of.

    index.html, app.js, ...   the page (javascript/page)
    jirgee/                   the package, for Node.js too (javascript/jirgee)
    jirgee/vendor/            onnxruntime-web, two files of it
    model/                    the bundle's files as they are

Nothing in the folder asks another host for anything; npm is asked once, here, for a version whose hashes are known.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jirgee import __version__
from jirgee.bundle import Bundle, check_free, hash_line, replace
from jirgee.container import Container
from jirgee.errors import BundleError, InputError, MissingPackage
from jirgee.manifest import MANIFEST, MANIFEST_HASH, MAX_MANIFEST_BYTES

SOURCE = Path(__file__).parent / "javascript"
ONNXRUNTIME_WEB = "1.30.0"
# The build without WebGPU, half as large, and the module that starts it -> SHA-256 in the version above.
VENDORED = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
WORKER = "sw.js"  # is told which files there are
FETCHED_LATER = ("model/", "jirgee/vendor/")  # large: kept for offline when the page first fetches them


def write_web(bundle: Bundle, out: Path, overwrite: bool = False, package: Path | None = None) -> str:
    """Write the folder ``out``; returns a line about it.

    ``package``: the unpacked npm package onnxruntime-web (any version), instead of asking npm. Raises BundleError if
    the bundle's tokenizer has no JavaScript form, MissingPackage without npm, InputError if ``out`` is there already.
    """
    check_free(out, overwrite)
    check_tokenizer(bundle)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        shutil.copytree(SOURCE / "page", staging, dirs_exist_ok=True)
        shutil.copytree(SOURCE / "jirgee", staging / "jirgee")
        described = json.loads((staging / "jirgee" / "package.json").read_text(encoding="utf-8"))
        described["version"] = __version__
        (staging / "jirgee" / "package.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        _vendor(staging / "jirgee" / "vendor", package)
        _write_model(bundle, staging / "model")
        _tell_service_worker(staging)
        staging.chmod(0o755)
        size = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
        replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return f"{out}: {size / 1e6:.1f} MB; look at it with: python -m http.server --directory {out}"


def check_tokenizer(bundle: Bundle) -> None:
    """Raise BundleError unless sentencepiece.js can segment what the bundle's tokenizer can."""
    name = bundle.tokenizer.file
    if bundle.tokenizer.kind != "sentencepiece":
        raise BundleError(f"{bundle.path}: only SentencePiece tokenizers run in JavaScript; {name} is none")
    from sentencepiece import sentencepiece_model_pb2 as protobuf

    model = protobuf.ModelProto.FromString(bundle.read(name))  # pyright: ignore[reportAttributeAccessIssue]
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
    if kind != "UNIGRAM":
        raise BundleError(f"{bundle.path}: only unigram SentencePiece models run in JavaScript; {name} is {kind}")


def _write_model(bundle: Bundle, out: Path) -> None:
    """The bundle as a directory of plain files."""
    out.mkdir()
    for name in bundle.files:
        (out / name).write_bytes(bundle.read(name))
    with Container.open(bundle.path) as container:
        manifest = container.read(MANIFEST, MAX_MANIFEST_BYTES)
    (out / MANIFEST).write_bytes(manifest)
    (out / MANIFEST_HASH).write_bytes(hash_line(manifest))


def _vendor(out: Path, package: Path | None) -> None:
    """Put the two files of onnxruntime-web into ``out``."""
    out.mkdir()
    about = f"onnxruntime-web {ONNXRUNTIME_WEB} (https://github.com/microsoft/onnxruntime, MIT licence), unchanged.\n"
    if package:
        source = package / "dist"
        for name in VENDORED:
            if not (source / name).is_file():
                raise InputError(f"has no {name}: not the npm package onnxruntime-web", source)
            shutil.copy(source / name, out / name)
        about = about.replace(f" {ONNXRUNTIME_WEB}", "")
    else:
        for name, data in from_npm().items():
            (out / name).write_bytes(data)
    (out / "README.md").write_text(about, encoding="utf-8")


def from_npm() -> Mapping[str, bytes]:
    """Name -> verified bytes, by ``npm pack``, which keeps what it has fetched."""
    npm = shutil.which("npm")
    remedy = "or pass --onnxruntime-web PATH, an unpacked copy of that npm package"
    if not npm:
        raise MissingPackage(f"--web needs npm to fetch onnxruntime-web; install Node.js, {remedy}")
    with tempfile.TemporaryDirectory(prefix="jirgee-npm-") as work:
        command = [npm, "pack", f"onnxruntime-web@{ONNXRUNTIME_WEB}", "--prefer-offline", "--silent"]
        run = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        archives = list(Path(work).glob("*.tgz"))
        if run.returncode or not archives:
            why = (run.stderr.strip().splitlines() or ["it said nothing"])[0]
            raise MissingPackage(
                f"--web: npm could not fetch onnxruntime-web {ONNXRUNTIME_WEB} ({why}); try again, {remedy}"
            )
        with tarfile.open(archives[0]) as archive:
            found = {name: _member(archive, f"package/dist/{name}") for name in VENDORED}
    for name, data in found.items():
        if hashlib.sha256(data).hexdigest() != VENDORED[name]:
            raise BundleError(f"--web: {name} of onnxruntime-web {ONNXRUNTIME_WEB} is not the file this jirgee knows")
    return found


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    return stream.read() if stream else b""


def _tell_service_worker(folder: Path) -> None:
    """Fill in the version (a hash over every file) and the list of files that are kept from the start."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != WORKER)
    names = [file.relative_to(folder).as_posix() for file in files]
    version = hashlib.sha256()
    for file, name in zip(files, names, strict=True):
        version.update(f"{name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    page = ["./", *(name for name in names if not name.startswith(FETCHED_LATER))]
    page = [name for name in page if Path(name).suffix not in (".md", ".ts", ".json")]
    text = (folder / WORKER).read_text(encoding="utf-8")
    text = text.replace("@VERSION@", f"jirgee-{version.hexdigest()[:16]}").replace('["@PAGE@"]', json.dumps(page))
    (folder / WORKER).write_text(text, encoding="utf-8")
