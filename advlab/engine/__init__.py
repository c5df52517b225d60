"""Work on Ray: the session, the actor pool, and the studies that run on it."""

import os

# Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# By default a driver keeps asking a head that is gone for a quarter of an hour.
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
# Ray would otherwise hide a machine's GPUs from actors that ask for none, and warn of it.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
