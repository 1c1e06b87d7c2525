"""What a bundle is: its manifest, as it is stored, with typed access to the entries."""

from __future__ import annotations

from typing import Any, TypedDict

from beholder.data.task import Task
from beholder.models.model_ref import ModelRef
from beholder.registry.routing import Population
from beholder.util.atomic import digest_of


class FileEntry(TypedDict):
    """A file of a bundle."""

    sha256: str
    bytes: int


class Manifest(dict[str, Any]):
    """JSON as it was read, unknown entries included: written again it has the same bytes, and the same seal.

    `tracking`, `refreshed`, `prior_retrained`, `prior_still_holds` and `folds` are not in every manifest.
    """

    def but(self, **entries: Any) -> Manifest:
        """The same with other entries."""
        return Manifest({**self, **entries})

    @property
    def files(self) -> dict[str, FileEntry]:
        """The files by name: checksum and size."""
        return self["files"]

    @property
    def digests(self) -> set[str]:
        """The checksums of all files: the objects that the bundle consists of."""
        return {entry["sha256"] for entry in self.files.values()}

    @property
    def task(self) -> Task:
        """Labels, kind and scales."""
        return Task.from_json(self["task"])

    @property
    def base(self) -> ModelRef:
        """The base that both methods stand on."""
        return ModelRef.of(self["base"].get("endpoint") or self["base"]["name"])

    @property
    def base_checksums(self) -> tuple[str | None, str | None]:
        """Of the base's weights, or of the endpoint; of the tokenizer."""
        return self["base"].get("checksum"), self["base"].get("tokenizer_checksum")

    @property
    def arms(self) -> dict[str, str]:
        """`global`, and `personal` where there is one -> the arm's name in its run."""
        return {part: each["arm"] for part, each in self["methods"].items()}

    @property
    def methods(self) -> dict[str, str]:
        """`global`, and `personal` where there is one -> the method."""
        return {part: each["method"] for part, each in self["methods"].items()}

    @property
    def run(self) -> str:
        """The name of the run it comes from."""
        return str(self["run"])

    @property
    def seed(self) -> int:
        """Of the experiment."""
        return int(self["seed"])

    @property
    def split(self) -> dict[str, Any]:
        """The settings of the split, as the experiment has them."""
        return self["split"]

    @property
    def folds(self) -> int | None:
        """How many folds it was measured in; None without."""
        return self.get("folds")

    @property
    def population(self) -> Population:
        """What users' gains were shrunk toward. Only where there is a personal method."""
        return Population(**self["routes"]["population"])

    @property
    def thresholds(self) -> list[float] | None:
        """By which everybody is decided; None where each method has its own."""
        return self.get("thresholds")

    @property
    def backbone_digest(self) -> str:
        """SHA-256 of all that users' adapters stand on: equal where an adapter trained on one bundle fits another."""
        under = {
            name: entry["sha256"]
            for name, entry in self.files.items()
            if name.startswith(("global/", "personal/from/", "personal/prior.")) or name == "personal/personal.json"
        }
        return digest_of(under)

    def stands_on_the_same(self, other: Manifest) -> bool:
        """Whether both are the same but for their users' adapters."""
        return (
            self.backbone_digest == other.backbone_digest
            and all(self[name] == other[name] for name in ("base", "methods"))
            and self.files.get("personal/method.json") == other.files.get("personal/method.json")
        )
