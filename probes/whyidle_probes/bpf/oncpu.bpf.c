/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a thread does that never sleeps: a CPU clock asks, a hundred times a second of its CPU time. User
 * space starts a clock only for threads that run nearly all the time. Counted are all answers, and those
 * from inside poll, select or epoll_wait with a time-out of zero: a thread that asks again and again.
 */
static __always_inline bool is_zero(u64 timespec)
{
	u64 words[2] = {};
	return timespec && !bpf_probe_read_user(words, sizeof(words), (void *)timespec) && !words[0] && !words[1];
}

static __always_inline bool polls_without_waiting(u64 regs)
{
	int nr = (int)LOAD(pt_regs, regs, orig_ax); /* -1: not in a syscall */
	u8 *class = nr >= 0 && nr < WI_SYSCALLS ? syscall_class.lookup(&nr) : 0;
	switch (class ? *class : WI_CLASS_OTHER) {
	case WI_CLASS_POLL:
		return nr == WI_NR_POLL ? !(u32)LOAD(pt_regs, regs, dx) : is_zero(LOAD(pt_regs, regs, dx));
	case WI_CLASS_SELECT:
		return is_zero(LOAD(pt_regs, regs, r8));
	case WI_CLASS_EPOLL:
		return nr == WI_NR_EPOLL_PWAIT2 ? is_zero(LOAD(pt_regs, regs, r10))
						: !(u32)LOAD(pt_regs, regs, r10);
	}
	return false;
}

int wi_oncpu(void *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct wi_thread *t = thread_of(tid);
	if (!t)
		return 0;
	/* Single words, so no reader can see half of one. */
	__sync_fetch_and_add(&t->clock_samples, 1);
	if (polls_without_waiting(wi_task_pt_regs(wi_current_task())))
		__sync_fetch_and_add(&t->polling_samples, 1);
	return 0;
}
