"""Random calls from many threads, with forks, workers and signals, for a while.

``NBGATHER_SOAK_SECONDS`` sets for how long: the weekly run takes half an hour.
"""

from __future__ import annotations

import os

import pytest
from children import child

#: What a child does: it must neither hang nor give a wrong byte, nor keep threads or memory.
SOAK = """
import faulthandler, random, signal, threading, time
import torch

SECONDS = float(os.environ["SOAK_SECONDS"])
faulthandler.dump_traceback_later(SECONDS + 60, exit=True)  # all stacks, if it hangs
signal.signal(signal.SIGALRM, lambda *args: None)  # a signal that interrupts nothing
end = time.monotonic() + SECONDS

def expect(value, wanted):
    got = np.asarray(value)
    assert got.dtype == wanted.dtype and got.tobytes() == wanted.tobytes()

def case(generator, n, length, width):
    x = generator.integers(0, 1 << 30, (n, length, width)).astype(np.int32)
    index = generator.integers(0, length, (n, length // 2 + 1, width))
    ids = generator.integers(0, length, (n, length // 2 + 1))
    noise = generator.random((n, length), np.float32)
    with nbgather.limit_threads(1):
        masked = nbgather.random_masking(x, 0.5, noise=noise)
    order = noise.argsort(1, kind="stable")
    assert (masked.ids_restore == order.argsort(1, kind="stable")).all()
    wanted = {
        "gather": np.take_along_axis(x, index, 1),
        "tokens": x[np.arange(n)[:, None], ids],
        "masked": np.array(masked.x_masked),
        "restored": np.array(nbgather.restore_tokens(masked.x_masked, masked.ids_restore, 7)),
    }
    keep = masked.x_masked.shape[1]
    restored = np.full((n, length, width), 7, np.int32)
    for k in range(n):
        restored[k, order[k, :keep]] = x[k, order[k, :keep]]
    assert (wanted["restored"] == restored).all()
    calls = {
        "gather": lambda x=x: nbgather.gather(x, 1, index),
        "tokens": lambda x=x: nbgather.gather_tokens(x, ids),
        "masked": lambda x=x: nbgather.random_masking(x, 0.5, noise=noise).x_masked,
        "restored": lambda m=masked: nbgather.restore_tokens(m.x_masked, m.ids_restore, 7),
    }
    tensors = torch.from_numpy(x), torch.from_numpy(index)
    calls["torch"] = lambda: nbgather.gather(tensors[0], 1, tensors[1])
    wanted["torch"] = wanted["gather"]
    def refused():
        try:
            nbgather.gather(x, 1, index + length)
        except IndexError:
            return wanted["gather"]
    calls["refused"], wanted["refused"] = refused, wanted["gather"]
    return calls, wanted

generator = np.random.default_rng(0)
shapes = (2, 5, 3), (8, 40, 64), (40, 50, 200), (64, 196, 256)
cases = [case(generator, *shape) for shape in shapes]

def call(choice):
    calls, wanted = choice.choice(cases)
    name = choice.choice(sorted(calls))
    expect(calls[name](), wanted[name])

failures, counts = [], [0] * 16

def work(number):
    choice = random.Random(number)
    try:
        while time.monotonic() < end:
            call(choice)
            counts[number] += 1
    except BaseException as error:
        failures.append(repr(error))

class Masked(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, k):
        for _ in range(3):
            call(random.Random(k))
        return k

def memory():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])

for calls, wanted in cases:
    for name in calls:
        for _ in range(3):
            expect(calls[name](), wanted[name])
threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
for thread in threads:
    thread.start()
choice, forks, loaders = random.Random(99), 0, 0
time.sleep(3)
before = memory(), len(os.listdir("/proc/self/task"))
while time.monotonic() < end and not failures:
    what = choice.random()
    if what < 0.4:
        pid = os.fork()
        if pid == 0:
            signal.alarm(0)
            os._exit(0 if [call(random.Random(k)) for k in range(4)] else 1)
        assert os.waitpid(pid, 0)[1] == 0
        forks += 1
    elif what < 0.5:
        loader = torch.utils.data.DataLoader(Masked(), batch_size=None, num_workers=2)
        assert list(loader) == list(range(6))
        loaders += 1
    else:
        signal.setitimer(signal.ITIMER_REAL, choice.random() * 0.01 + 1e-6)
        for _ in range(5):
            call(choice)
for thread in threads:
    thread.join()
assert not failures, failures
assert min(counts) > 0 and forks and loaders
after = memory(), len(os.listdir("/proc/self/task"))
assert after[0] < before[0] + (200 << 10), (before, after)
assert after[1] <= before[1], (before, after)
faulthandler.cancel_dump_traceback_later()
print("done", file=sys.stderr)
print(sum(counts) > 100)
"""


#: Its sixteen threads slow every test that runs beside it, so by default it is short.
SECONDS = os.environ.get("NBGATHER_SOAK_SECONDS", "8")


@pytest.mark.timeout(float(SECONDS) + 270)
def test_soak() -> None:
    assert child(SOAK, seconds=float(SECONDS) + 240, SOAK_SECONDS=SECONDS) == "True\n"
