/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The heart: a context switch ends one interval of two threads. The one that leaves has been running;
 * why it stops is read from its own saved registers. The one that enters was asleep and then waited for
 * a CPU; sched_waking noted when it became runnable.
 */
static __always_inline void emit_thread_exit(struct wi_thread *t, u64 task, u64 now)
{
	u32 tid = t->tid;
	tell_turns(t);
	t->end_ns = now;
	PROBE_READ(&t->comm, task + offsetof(struct task_struct, comm));
	struct wi_thread_exit *e = events.ringbuf_reserve(sizeof(*e));
	if (!e) { /* stays in the map, marked by end_ns, until user space sweeps it up */
		write_end(t);
		count_stat(WI_STAT_EXITS_KEPT);
		return;
	}
	write_end(t);
	e->header.type = WI_EV_THREAD_EXIT;
	e->header.target = t->target;
	e->thread = *t;
	events.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	threads.delete(&tid);
	know_tid(tid, 0);
}

static __always_inline void begin_queueing(struct wi_thread *t, u16 state)
{
	t->state = state;
	t->syscall = 0xffff;
	t->fd = -1;
	t->peer.family = 0;
}

/* An interval off the CPU is over: asleep first, then waiting for a CPU. */
static __always_inline void close_wait(struct wi_thread *t, u64 blocked, u64 waited)
{
	if (t->state > WI_RUNQUEUE)
		add_time(t, t->state, blocked);
	if (waited || t->state == WI_RUNQUEUE)
		add_time(t, WI_RUNQUEUE, waited);
	bool socket = t->state == WI_TCP || t->state == WI_UDP;
	struct wi_config *c = config_of();
	if (t->last_ns - t->turns_start_ns >= WI_TURNS_NS)
		tell_turns(t);
	if (c && blocked + waited >= c->slice_ns) {
		if (t->state == WI_RUNQUEUE && waited < WI_TURN_NS) {
			keep_turn(t, waited);
			return;
		}
		tell_turns(t);
		if (!emit_slice(t, blocked, waited) && socket)
			add_short_wait(t, blocked);
	} else if (socket) {
		add_short_wait(t, blocked);
	}
}

static __always_inline void add_running(struct wi_thread *t, u64 ns)
{
	add_time(t, t->flags & WI_THREAD_GPU ? WI_GPU : WI_RUNNING, ns);
}

/* An interval off the CPU begins, and nobody has ended it yet. */
static __always_inline void begin_off(struct wi_thread *t)
{
	t->queue = 0;
	t->wake_ns = 0;
	t->waker_pid = 0;
	t->waker_tid = 0;
	t->waker_syscall = 0xffff;
}

static __always_inline void switch_in(struct wi_thread *t, u64 task, u64 now)
{
	write_begin(t);
	u64 off = now > t->last_ns ? now - t->last_ns : 0;
	u64 blocked = 0;
	if (t->state > WI_RUNQUEUE) {
		blocked = off;
		if (t->wake_ns >= t->last_ns && t->wake_ns <= now)
			blocked = t->wake_ns - t->last_ns;
	}
	u64 held = throttled_ns(t, task, off - blocked);
	if (held) { /* an interval of its own: what the thread slept in has no part in it */
		if (t->state > WI_RUNQUEUE)
			close_wait(t, blocked, 0);
		t->last_ns += blocked;
		off -= blocked;
		blocked = held;
		begin_queueing(t, WI_THROTTLED);
	}
	close_wait(t, blocked, off - blocked);
	t->state = WI_RUNNING;
	t->last_ns = now;
	write_end(t);
}

#define WI_UNSEEN_NS 50000ULL /* a shorter run is no matter */

/*
 * A thread that enters a CPU without ever having left one: that switch was not shown, or it came while an iterator
 * found the thread. For how long it ran the scheduler knows. Had it slept, its waking would have told (slept_unseen),
 * so it waited for a CPU; only after a run that was not seen at all it is not known (`state`). A hypervisor's time
 * is in no run by that account: it counts as what came after.
 */
static __always_inline void left_unseen(struct wi_thread *t, u64 task, u16 state, u64 now)
{
	u64 since = now > t->last_ns ? now - t->last_ns : 0, all = TASK(task, se.sum_exec_runtime);
	u64 ran = all > t->ran_ns ? all - t->ran_ns : 0;
	if (ran > since)
		ran = since;
	if (all + WI_TICK_NS < t->ran_ns) /* the record of one that was not seen to end, and had this number */
		state = WI_UNKNOWN;
	write_begin(t);
	add_running(t, ran);
	t->last_ns += ran;
	t->ran_ns = all;
	begin_off(t);
	begin_queueing(t, state);
	write_end(t);
	count_stat(WI_STAT_SWITCHES_HIDDEN);
}

/*
 * A thread that enters a CPU, and has run since it left one: both switches between were not shown. What it left for
 * lasted until it was woken, at most; a wait for a CPU has no such end. What came after that, but for how long it
 * ran, nobody knows.
 */
static __always_inline void ran_unseen(struct wi_thread *t, u64 task, u64 now)
{
	u64 ready = t->wake_ns > t->last_ns ? t->wake_ns : t->last_ns;
	if (TASK(task, se.sum_exec_runtime) <= t->ran_ns + WI_UNSEEN_NS || now <= ready)
		return;
	switch_in(t, task, ready);
	left_unseen(t, task, WI_UNKNOWN, now);
}

/*
 * A thread that leaves a CPU without ever having entered it: kernels do not show every switch (6.18 in a virtual
 * machine hid one of a thousand, with no miss in its own count). How long it ran the scheduler knows, so when
 * its wait ended is known too.
 */
static __always_inline void catch_up(struct wi_thread *t, u64 task, u64 now)
{
	u64 ran = TASK(task, se.sum_exec_runtime) - t->ran_ns;
	u64 ready = t->wake_ns > t->last_ns ? t->wake_ns : t->last_ns;
	if (now <= ready)
		return;
	switch_in(t, task, ran < now - ready ? now - ran : ready);
	count_stat(WI_STAT_SWITCHES_HIDDEN);
}

/* Whether a thread is woken by now: by its own word, or that of the scheduler, which is to put it into a queue. */
static __always_inline bool is_awake(u64 task)
{
	u32 state = TASK(task, WI_TASK_STATE);
	return !state || (state & WI_TASK_WAKING);
}

#define WI_WAKING_NS 1000000ULL /* more than the last steps of a waking take, without interrupts */

/*
 * A thread that has just fallen asleep may have been woken from another CPU before that was seen: while the record
 * had it run (`since` then; wi_sched_waking). Whoever wakes it holds its pi_lock until its state says so, thus that is
 * read first. A waking that was over when it left its queue came too early: it did not sleep then, and does now.
 *
 * Nothing is cleared here: the waker may be writing. A wake_ns of before last_ns is none of this sleep.
 */
static __always_inline void settle_waking(struct wi_thread *t, u64 task, u64 since, u64 now)
{
	u32 held = 0;
	if (t->wake_ns > since)
		PROBE_READ(&held, task + offsetof(struct task_struct, pi_lock));
	barrier();
	bool awake = is_awake(task);
	barrier();
	u64 noted = t->wake_ns;
	if (noted >= now) /* seen asleep by now, or about to */
		return;
	if (noted > since) {
		if (awake || (held && noted + WI_WAKING_NS > now))
			t->wake_ns = now;
	} else if (awake) { /* by whom nobody saw */
		begin_off(t);
		t->wake_ns = now;
	}
}

/* A thread that falls asleep: in what, and for whom. */
static __always_inline void fall_asleep(struct wi_thread *t, u64 task, u32 task_state, bool current)
{
	tell_turns(t);
	resolve_wait(t, task, task_state, current);
	if ((t->flags & WI_THREAD_GPU) && t->state != WI_STOPPED)
		t->state = WI_GPU;
}

static __always_inline void switch_out(struct wi_thread *t, u64 task, bool preempted, u32 task_state, u64 now)
{
	if (t->state != WI_RUNNING)
		catch_up(t, task, now);
	write_begin(t);
	u64 since = t->last_ns;
	if (now > t->last_ns)
		add_running(t, now - t->last_ns);
	t->last_ns = now;
	t->ran_ns = TASK(task, se.sum_exec_runtime);
	if (preempted || task_state == 0) {
		begin_off(t);
		begin_queueing(t, throttled(task) ? WI_THROTTLED : WI_RUNQUEUE);
		note_queue(t, task);
	} else if (task_state & WI_TASK_DEAD) {
		emit_thread_exit(t, task, now);
		return;
	} else {
		t->queue = 0;
		fall_asleep(t, task, task_state, true);
		settle_waking(t, task, since, now);
	}
	write_end(t);
}

/*
 * The record of a thread that leaves its CPU for the last time. A thread other than the first that calls exec takes
 * the number of the first while that may still be on its way there, with the caller's number. The record under this
 * is the caller's: wi_exec needs it. (A start at the same time tells: the caller has taken over that as well.)
 */
static __always_inline struct wi_thread *dying(struct wi_thread *t, u64 task)
{
	u64 leader = (u64)TASK(task, group_leader);
	u32 pid = TASK(task, tgid);
	if (t->tid == pid || TASK(leader, start_time) != TASK(task, start_time))
		return t;
	return threads.lookup(&pid);
}

int wi_sched_switch(u64 *ctx)
{
	u64 prev = ARG(ctx, 1), next = ARG(ctx, 2);
	struct wi_thread *out = thread_of(TASK(prev, pid)), *in = thread_of(TASK(next, pid));
	u64 now = 0;
#ifdef WI_HIDE_SWITCHES /* a test's: one of so many */
	if (in && in->count[WI_RUNNING] % WI_HIDE_SWITCHES == WI_HIDE_SWITCHES - 1)
		return 0;
#endif
#ifdef WI_HIDE_LEAVING /* the same, but not the last of a thread */
	if (out && out->count[WI_RUNNING] % WI_HIDE_LEAVING == 0 && !TASK(prev, exit_state))
		return 0;
#endif
#ifdef WI_HIDE_RUNS /* the same, of both switches of a run, which do not change the count; of one thread alone */
	if (in && in->count[WI_RUNNING] % WI_HIDE_RUNS == WI_HIDE_RUNS - 1 && in->pad[0] != (u8)in->count[WI_RUNNING]) {
		in->pad[0] = in->count[WI_RUNNING];
		return 0;
	}
	if (out && out->pad[0] == (u8)out->count[WI_RUNNING] && out->pad[1] != out->pad[0] && !TASK(prev, exit_state)) {
		out->pad[1] = out->pad[0];
		return 0;
	}
#endif
	if (out) {
#ifdef WI_SWITCH_HAS_STATE
		u32 task_state = (u32)ARG(ctx, 3);
#else
		u32 task_state = (u32)TASK(prev, WI_TASK_STATE);
#endif
#ifdef WI_SLOW_LEAVING /* a test's: so many readings of the clock more, before it is noted when, and after */
		for (int i = 0; i < WI_SLOW_LEAVING; i++)
			bpf_ktime_get_ns();
#endif
		now = bpf_ktime_get_ns(); /* only now: reading the clock costs as much as the rest */
#ifdef WI_SLOW_LEAVING
		for (int i = 0; i < WI_SLOW_LEAVING; i++)
			bpf_ktime_get_ns();
#endif
		if (task_state & WI_TASK_DEAD)
			out = dying(out, prev);
		if (out)
			switch_out(out, prev, ARG(ctx, 0), task_state, now);
	}
	if (in) {
		if (!now)
			now = bpf_ktime_get_ns();
		if (in->state == WI_RUNNING)
			left_unseen(in, next, WI_RUNQUEUE, now);
		else
			ran_unseen(in, next, now);
		switch_in(in, next, now);
	}
	return 0;
}
