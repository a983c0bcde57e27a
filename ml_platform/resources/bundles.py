"""The bundle store: bundles by their hash, in a folder that the model server reads."""

from pathlib import Path

import dagster as dg


class BundleStore(dg.ConfigurableResource[None]):
    """A folder with one folder per bundle, named by its hash."""

    root: str

    def folder(self, digest: str) -> Path:
        """Where a bundle is, or would be."""
        return Path(self.root) / digest

    @property
    def path(self) -> Path:
        """The folder of all bundles, there or not yet."""
        return Path(self.root)
