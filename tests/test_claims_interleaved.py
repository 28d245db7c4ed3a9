"""Claims under every order of the steps of several takers: two never hold at once."""

import random
import threading

import pytest

from edit_sweeps import claims
from tests.test_claims import age

STEPS = ("_listing", "_create", "_replace", "_remove", "_read")


class Interleaved:
    """Runs threads one step on the file system at a time, in an order drawn from a seed."""

    def __init__(self, monkeypatch, seed):
        self.draw, self.turns, self.arrived = random.Random(seed), {}, threading.Semaphore(0)
        self.failures = []
        for step in STEPS:
            monkeypatch.setattr(claims, step, self.stepped(getattr(claims, step)))
        monkeypatch.setattr(claims, "_listing", self.in_two_looks(claims._listing))

    def in_two_looks(self, listing):
        """As a folder is read: one half of its files as they were before, one as they are now."""

        def looks(folder):
            halves, odd = (listing(folder), listing(folder)), self.draw.randrange(2)
            return [f for half in (0, 1) for f in halves[half] if (ord(f[-1]) + odd) % 2 == half]

        return looks

    def stepped(self, function):
        def waits(*args):
            self.pause()
            return function(*args)

        return waits

    def pause(self):
        turn = self.turns.get(threading.current_thread())
        if turn is not None:
            self.arrived.release()
            turn.acquire()

    def run(self, work, count):
        def guarded(number):
            try:
                self.pause()
                work(number)
            except BaseException as error:
                self.failures.append(error)
            finally:
                self.turns.pop(threading.current_thread())
                self.arrived.release()

        threads = [threading.Thread(target=guarded, args=(n,), name=str(n)) for n in range(count)]
        self.turns = {thread: threading.Semaphore(0) for thread in threads}
        for thread in threads:
            thread.start()
            self.arrived.acquire()
        favourite = None
        while self.turns:
            if favourite not in self.turns or self.draw.random() < 0.3:  # long sleeps of the others
                favourite = self.draw.choice(sorted(self.turns, key=lambda thread: thread.name))
            self.turns[favourite].release()
            self.arrived.acquire()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("before", ["nothing", "released", "stale"])
def test_in_whatever_order_their_steps_come_two_never_hold_at_once(tmp_path, monkeypatch, before):
    inside, turns = [], []

    def takes(folder):
        for _ in range(4):
            held = claims.try_hold(folder, "cell")
            if held is None:
                continue
            inside.append(held)
            assert len(inside) == 1
            claims._listing(folder)  # others have their turns
            assert held.is_ours()
            inside.remove(held)
            turns.append(held)
            held.release()

    for seed in range(100):
        folder = tmp_path / str(seed)
        if before != "nothing":
            claims.try_hold(folder, "cell").release()
        if before == "stale":
            (folder / "cell.1").write_text("")
            age(folder / "cell.1", claims.STALE_S + 1)
        with monkeypatch.context() as patch:
            steps = Interleaved(patch, seed)
            steps.run(lambda _, folder=folder: takes(folder), 3)
        assert not steps.failures, f"seed {seed}: {steps.failures}"
        assert claims.who(folder, "cell") is None
    assert len(turns) > 300
