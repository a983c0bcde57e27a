"""Start the model server: `python -m ml_platform.serving`."""

import logging
from urllib.parse import urlsplit

import uvicorn

from ml_platform import settings
from ml_platform.serving.app import Server
from ml_platform.serving.prediction_log import PredictionLog
from ml_platform.serving.slots import Slots


def main() -> None:
    """Serve until SIGTERM; requests under way are answered first."""
    here = settings.load()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    slots = Slots(here.state / "serving" / "slots.json")
    log = PredictionLog(here.require("platform_url"))
    address = urlsplit(here.require("serving_url"))
    try:
        uvicorn.run(
            Server(slots, log, here.require("serving_token")),
            host=address.hostname or "127.0.0.1",
            port=address.port or 8080,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=10,
        )
    finally:
        log.close()


if __name__ == "__main__":
    main()
