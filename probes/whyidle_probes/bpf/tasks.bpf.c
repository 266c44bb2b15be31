/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Attaching to what already runs: an iterator over every task, which adds the threads of observed
 * processes, and of their descendants, with what they are doing right now. It runs in the kernel, so
 * ten thousand threads take milliseconds and none can slip through between two reads of /proc.
 *
 * A parent may come after its child (numbers wrap): run it until WI_STAT_ITER_NEW stops growing.
 */
int wi_tasks(u64 *ctx)
{
	u64 task = ARG(ctx, 1);
	if (!task)
		return 0;
	u32 pid = TASK(task, tgid), tid = TASK(task, pid);
	u32 *target = processes.lookup(&pid);
	if (!target) {
		u64 parent = (u64)TASK(task, real_parent);
		u32 ppid = parent ? TASK(parent, tgid) : 0;
		target = processes.lookup(&ppid);
		if (!target || TASK(task, exit_state))
			return 0;
		u32 value = *target;
		processes.update(&pid, &value);
		target = processes.lookup(&pid);
		if (!target)
			return 0;
		if (process_ended(task)) { /* looked at only now, or wi_exit might come in between */
			processes.delete(&pid);
			return 0;
		}
		count_stat(WI_STAT_ITER_NEW);
	}
	if (threads.lookup(&tid) || TASK(task, exit_state) || process_ended(task))
		return 0;
	struct wi_thread *t = fresh_thread(WI_SCRATCH_ITERATOR, task, *target, bpf_ktime_get_ns());
	if (!t)
		return 0;
	t->flags |= WI_THREAD_PREEXISTING;
	u32 task_state = (u32)TASK(task, WI_TASK_STATE);
	if (task_state == 0)
		t->state = TASK(task, on_cpu) ? WI_RUNNING : WI_RUNQUEUE;
	else {
		resolve_wait(t, task, task_state, false);
		if (TASK(task, on_cpu)) /* falling asleep: what it has run by now is not counted yet, for a tick at most */
			t->ran_ns += WI_TICK_NS;
	}
	if (insert_thread(t))
		count_stat(WI_STAT_ITER_NEW);
	return 0;
}
