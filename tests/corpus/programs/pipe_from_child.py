"""Reads answers of a child that it forked, from a pipe."""

import os
import time

import truth

EXPECT = {"findings": [("blocking_subprocess", "ask", None)]}

questions, ask_end = os.pipe()
answer_end, answers = os.pipe()
child = os.fork()
if child == 0:
    os.close(ask_end)
    while os.read(questions, 1):
        time.sleep(0.4)
        os.write(answers, b"a")
    os._exit(0)


def ask():
    os.write(ask_end, b"q")
    with truth.waiting("child"):
        os.read(answer_end, 1)


for _ in range(3):
    ask()
os.close(questions)
os.close(ask_end)
os.waitpid(child, 0)
