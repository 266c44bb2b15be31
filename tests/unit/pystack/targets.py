"""Programs that sleep in known places, for ``tests/integration/test_pystack.py``."""

PREAMBLE = r"""
import json, linecache, os, sys, threading, time

def state(tid):
    with open("/proc/self/task/%d/stat" % tid) as file:
        return file.read().rpartition(")")[2].split()[0]

def stack(frame):
    found = []
    while frame:
        code = frame.f_code
        found.append([getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return found

def truth(threads):
    # Every thread sleeps on a line that says so, twice in a row.
    while True:
        now = {t.native_id: stack(sys._current_frames()[t.ident]) for t in threads}
        if all("# wait" in linecache.getline(f[0][1], f[0][2]) and state(t) == "S" for t, f in now.items()):
            if now == {t.native_id: stack(sys._current_frames()[t.ident]) for t in threads}:
                return now
        time.sleep(0.001)

def start(*targets):
    threads = [threading.Thread(target=t, daemon=True) for t in targets]
    for thread in threads:
        thread.start()
    return threads

def say(value):
    print(json.dumps(value), flush=True)
"""

WAITS = r"""
import functools, socket
lock = threading.Lock(); lock.acquire()
a, b = socket.socketpair()

def sleeps():
    def level_1():
        level_2()
    def level_2(n=3):
        if n:
            level_2(n - 1)
        else:
            time.sleep(1000)  # wait
    level_1()

def receives():
    (lambda: a.recv(1))()  # wait

def locks():
    for _ in generator():
        pass

def generator():
    yield from inner_generator()

def inner_generator():
    yield 1
    lock.acquire()  # wait

def comprehension():
    return [time.sleep(1000) for _ in range(3)]  # wait

def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

class Agent:
    @decorated
    def method(self):
        return self.prop

    @property
    def prop(self):
        return Agent.make()

    @classmethod
    def make(cls):
        return sorted([2, 1], key=cls.key)

    @staticmethod
    def key(_):
        threading.Event().wait()

class Lazy:
    def __del__(self):
        time.sleep(1000)  # wait

def finalizer():
    Lazy()

def executed():
    exec(compile("def inside():\n    lock.acquire()  # wait\n\n\ninside()", os.environ["EXECUTED"], "exec"),
         dict(lock=lock))

def long_lines():
    if lock:
        (
            lock  # wait (until 3.9 a call is on its first line)

            .acquire(  # wait
                True,
            )
        )

async def coroutine():
    await inner_coroutine()

async def inner_coroutine():
    time.sleep(1000)  # wait

def drives():
    coroutine().send(None)

def many_locals():
    x = list(range(400)); a0, a1, a2, a3, *rest = x
    deep(120)

def deep(n):
    if n:
        return deep(n - 1)
    lock.acquire()  # wait

threads = start(sleeps, receives, locks, comprehension, finalizer, executed, long_lines, drives, many_locals)
say({tid: found for tid, found in truth(threads).items()})
sys.stdin.readline()
"""

CHURN = r"""
import random
def churn(n=0):
    def a(k):
        return [b(i) for i in range(k % 4)]
    def b(k):
        return sum(c(k))
    def c(k):
        yield from (i for i in range(k))
    while True:
        scope = {}
        exec("def f%d(x):\n return x if x < 1 else f%d(x - 1)" % (n, n), scope)
        scope["f%d" % n](n % 30)
        a(n)
        n += 1

def sleeper():
    level(12)

def level(n):
    if n:
        return level(n - 1)
    time.sleep(1000)  # wait

sleeping = start(sleeper)
busy = start(churn, churn, churn)
say({tid: found for tid, found in truth(sleeping).items()})
sys.stdin.readline()
"""

NAMES = r"""
name = sys.argv[0].replace("target.py", "") + "new\nline\x1b[31m\udcff\u00e9\u20ac\U0001f600.py"
code = compile("def f\u00fcr():\n    time.sleep(1000)  # wait\nf\u00fcr()", name, "exec")
def runs():
    exec(code, dict(time=time))
thread, = start(runs)
def inside():
    return "f\u00fcr" in [f[0] for f in stack(sys._current_frames()[thread.ident])]
while not inside() or state(thread.native_id) != "S":
    time.sleep(0.001)
say([thread.native_id, name.encode("utf-8", "surrogateescape").decode("latin-1")])
sys.stdin.readline()
"""

THREADS = r"""
def waits():
    event.wait()
event = threading.Event()
for _ in range(300):
    start(waits)
def come_and_go():
    while True:
        thread = threading.Thread(target=int); thread.start(); thread.join()
sleeping = start(lambda: time.sleep(1000))  # wait
start(come_and_go)
say({tid: found for tid, found in truth(sleeping).items()})
sys.stdin.readline()
"""

SUBINTERPRETER = r"""
try:
    import _interpreters as sub
except ImportError:
    import _xxsubinterpreters as sub
def outer():
    run = getattr(sub, "run_string")
    run(sub.create(), "def inner():\n    import sys\n    sys.stdin.readline()\nprint(1, flush=True)\ninner()")
outer()
"""

TASKS = r"""
import asyncio
async def leaf():
    await asyncio.sleep(1000)
async def middle():
    await leaf()
async def generator():
    await asyncio.sleep(1000)
    yield 1
async def iterates():
    async for _ in generator():
        pass
class Awaitable:
    def __await__(self):
        return (yield from asyncio.sleep(1000).__await__())
async def awaits():
    await Awaitable()
class Derived(asyncio.Task):
    pass
async def future():
    await asyncio.get_running_loop().create_future()
def blocks():
    sys.stdin.readline()
async def guilty():
    await asyncio.sleep(0.1)
    say(1)
    blocks()
async def main():
    loop = asyncio.get_running_loop()
    if "dict" in sys.argv:
        for name in ("_scheduled_tasks", "_all_tasks"):
            vars(getattr(asyncio.tasks, name, sys))
    if "eager" in sys.argv:
        loop.set_task_factory(asyncio.eager_task_factory)
    tasks = [asyncio.create_task(middle(), name="m\u00fcller"), asyncio.create_task(iterates(), name="i")]
    tasks += [asyncio.create_task(awaits(), name="a"), Derived(future(), name="d")]
    tasks += [asyncio.create_task(guilty())]
    await asyncio.gather(*tasks)
if "uvloop" in sys.argv:
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""
