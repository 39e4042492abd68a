"""One thread for each process: small models gain nothing from more, and threads that spin cost twice the time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
