"""Room 7, image: what will be deployed, addressed by its content; on one machine the bundle itself."""

from collections.abc import Iterator

import dagster as dg

from ml_platform.assets.room import patiently, room
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.products import Image, RegisteredModel
from ml_platform.resources.tracking import WAITING, ExperimentTracking


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""

    @room(
        spec,
        "The bundle of the registered version, checked byte for byte, in the store that serving reads. Its hash "
        "covers what decides answers; name, version and run stand beside it. Skipped, with the deployment, while the "
        "version waits for a person's approval.",
        kinds=("python",),
        after="registered_model",
        may_stay_closed=True,
    )
    def image(
        context: dg.AssetExecutionContext,
        registered_model: RegisteredModel,
        bundles: BundleStore,
        tracking: ExperimentTracking,
    ) -> Iterator[dg.MaterializeResult[Image]]:
        release = registered_model.release
        with patiently(context):
            version = tracking.version(spec.name, release.version)
            if version and WAITING in version.tags:
                context.log.info(f"version {release.version} waits for {version.tags[WAITING]}")
                return
            folder = tracking.fetch_bundle(release.run_id, bundles.path, release.digest)
        size = sum(file.stat().st_size for file in folder.iterdir())
        yield dg.MaterializeResult(
            value=Image(release=release),
            metadata={
                "digest": release.digest,
                "version": int(release.version),
                "size_kib": dg.MetadataValue.float(size / 1024),
                "folder": dg.MetadataValue.path(str(folder)),
            },
            data_version=dg.DataVersion(release.digest),
        )

    return image
