"""Work on Ray: the session, the actor pool and its scheduler, launchers of training, and progress."""

import os

# Ray reads these variables when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# The default keeps a driver waiting a quarter of an hour for a head that is gone.
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
# Otherwise Ray hides a machine's GPUs from actors that ask for none, and warns about it.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
