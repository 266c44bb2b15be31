/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Following the tree: fork, exec and exit of observed processes, from their first instruction on. */
static __always_inline struct wi_thread *fresh_thread(int slot, u64 task, u32 target, u64 now)
{
	struct wi_thread *t = scratch.lookup(&slot);
	if (!t)
		return NULL;
	__builtin_memset(t, 0, sizeof(*t));
	t->pid = TASK(task, tgid);
	t->tid = TASK(task, pid);
	t->target = target;
	t->flags = t->pid == t->tid ? WI_THREAD_LEADER : 0;
	t->first_ns = now;
	t->last_ns = now;
	t->ran_ns = TASK(task, se.sum_exec_runtime);
	t->syscall = 0xffff;
	t->fd = -1;
	PROBE_READ(&t->comm, task + offsetof(struct task_struct, comm));
	return t;
}

static __always_inline bool insert_thread(struct wi_thread *t)
{
	u32 tid = t->tid;
	know_tid(tid, 1); /* first: whoever finds the thread must find this */
	if (!threads.insert(&tid, t))
		return true;
	if (!threads.lookup(&tid))
		count_stat(WI_STAT_THREADS_LOST);
	return false;
}

int wi_fork(u64 *ctx)
{
	u64 parent = ARG(ctx, 0), child = ARG(ctx, 1);
	u32 parent_tid = TASK(parent, pid);
	struct wi_thread *p = thread_of(parent_tid);
	if (!p)
		return 0;
	u32 target = p->target;
	u64 now = bpf_ktime_get_ns();
	struct wi_thread *t = fresh_thread(WI_SCRATCH_FORK, child, target, now);
	if (!t)
		return 0;
	t->state = WI_RUNQUEUE;
	insert_thread(t);
	u32 pid = t->pid, parent_pid = TASK(parent, tgid);
	struct wi_start *s = events.ringbuf_reserve(sizeof(*s));
	if (s) {
		s->header.type = WI_EV_START;
		s->header.target = target;
		s->ns = now;
		s->pid = pid;
		s->tid = t->tid;
		s->creator_pid = parent_pid;
		s->creator_tid = parent_tid;
		events.ringbuf_submit(s, BPF_RB_NO_WAKEUP);
	} else {
		count_stat(WI_STAT_SLICES_LOST);
	}
	if (pid == parent_pid)
		return 0;
	processes.update(&pid, &target);
	struct wi_fork *e = control.ringbuf_reserve(sizeof(*e));
	if (!e) {
		count_stat(WI_STAT_CONTROL_LOST);
		return 0;
	}
	e->header.type = WI_EV_FORK;
	e->header.target = target;
	e->ns = now;
	e->parent = parent_pid;
	e->pid = pid;
	__builtin_memcpy(e->comm, t->comm, WI_COMM);
	control.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

int wi_exec(u64 *ctx)
{
	u64 task = ARG(ctx, 0), bprm = ARG(ctx, 2);
	u32 old_tid = (u32)ARG(ctx, 1);
	struct wi_thread *t = thread_of(old_tid);
	if (!t) {
		notice_process(TASK(task, tgid));
		return 0;
	}
	u32 pid = TASK(task, pid);
	if (pid != old_tid) { /* a thread other than the leader called exec, and took the leader's number */
		know_tid(pid, 1);
		threads.update(&pid, t);
		threads.delete(&old_tid);
		know_tid(old_tid, 0);
		t = thread_of(pid);
		if (!t) {
			count_stat(WI_STAT_THREADS_LOST);
			return 0;
		}
		t->tid = pid;
		t->flags |= WI_THREAD_LEADER;
	}
	t->engine = 0;
	gils.delete(&pid); /* of the image that is gone */
	PROBE_READ(&t->comm, task + offsetof(struct task_struct, comm));
	struct wi_exec *e = control.ringbuf_reserve(sizeof(*e));
	if (!e) {
		count_stat(WI_STAT_CONTROL_LOST);
		return 0;
	}
	e->header.type = WI_EV_EXEC;
	e->header.target = t->target;
	e->ns = bpf_ktime_get_ns();
	e->pid = pid;
	e->old_tid = old_tid;
	__builtin_memcpy(e->comm, t->comm, WI_COMM);
	bpf_probe_read_kernel_str(e->path, sizeof(e->path), (void *)FIELD(linux_binprm, bprm, filename));
	e->rss_peak_pages = FIELD(signal_struct, (u64)TASK(task, signal), maxrss);
	struct wi_config *c = config_of();
	bool wake = c && c->resting;
	control.ringbuf_submit(e, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	return 0;
}

/* Whether the last thread of a task's process has exited, at least so far as sched_process_exit. */
static __always_inline bool process_ended(u64 task)
{
	u64 signal = (u64)TASK(task, signal);
	return FIELD(signal_struct, signal, live.counter) <= 0;
}

int wi_exit(u64 *ctx)
{
	u64 task = ARG(ctx, 0);
	u32 tid = TASK(task, pid), pid = TASK(task, tgid), target;
	struct wi_thread *t = thread_of(tid);
	if (t) {
		target = t->target;
	} else { /* of a process that is observed too: `threads` was full, or it is a worker of the kernel's */
		u32 *found = processes.lookup(&pid);
		if (!found) {
			forget_noticed(task);
			return 0;
		}
		target = *found;
	}
	if (!process_ended(task))
		return 0;
	u64 signal = (u64)TASK(task, signal);
	processes.delete(&pid);
	gils.delete(&pid);
	struct wi_exit *e = control.ringbuf_reserve(sizeof(*e));
	if (!e) {
		count_stat(WI_STAT_CONTROL_LOST);
		return 0;
	}
	e->header.type = WI_EV_EXIT;
	e->header.target = target;
	e->ns = bpf_ktime_get_ns();
	e->pid = pid;
	int code = FIELD(signal_struct, signal, group_exit_code);
	e->code = code ? code : TASK(task, exit_code);
	e->rss_peak_pages = FIELD(signal_struct, signal, maxrss);
	PROBE_READ(&e->comm, task + offsetof(struct task_struct, comm));
	control.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}
