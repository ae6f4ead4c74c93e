"""One thread per process, set before numerical libraries load: tests are small, and threads that wait for each other
made them 2 to 10 times slower on a busy machine."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
