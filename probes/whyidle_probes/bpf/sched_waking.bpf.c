/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The end of a sleep. Only the first waking counts: a second one while the thread already waits for a
 * CPU changes nothing. In task context the current thread is the waker; in an interrupt it is whoever
 * happened to be interrupted, so it is not noted.
 */
int wi_sched_waking(u64 *ctx)
{
	u64 task = ARG(ctx, 0);
	u32 tid = TASK(task, pid);
	struct wi_thread *t = threads.lookup(&tid);
	if (!t || t->state <= WI_RUNQUEUE || t->wake_ns)
		return 0;
	write_begin(t);
	t->wake_ns = bpf_ktime_get_ns();
	u64 waker = bpf_get_current_pid_tgid();
	t->waker_pid = waker >> 32;
	t->waker_tid = (u32)waker;
	write_end(t);
	return 0;
}
