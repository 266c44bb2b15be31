/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Closing an interval: totals, and an event when it was long enough. */

static __always_inline void add_time(struct wi_thread *t, u32 state, u64 ns)
{
	state &= WI_STATES - 1; /* a bound that the verifier can see */
	t->ns[state] += ns;
	t->count[state]++;
}

/* Waits on sockets that are too short for an event of their own are summed by peer. */
static __always_inline void add_short_wait(struct wi_thread *t, u64 ns)
{
	struct wi_wait_key key = {};
	key.pid = t->pid;
	key.tid = t->tid;
	key.state = t->state;
	key.family = t->peer.family;
	key.remote_port = t->peer.remote_port;
	__builtin_memcpy(key.remote, t->peer.remote, 16);
	struct wi_wait *wait = waits.lookup(&key);
	if (!wait) {
		struct wi_wait fresh = { .ns = ns, .count = 1, .longest_ns = ns, .target = t->target };
		if (waits.update(&key, &fresh))
			count_stat(WI_STAT_WAITS_LOST);
		return;
	}
	wait->ns += ns;
	wait->count++;
	if (ns > wait->longest_ns)
		wait->longest_ns = ns;
}

#define WI_WAKE_EVERY 2048 /* a power of two; the ring holds 18000 */

static __always_inline struct wi_slice *begin_slice(struct wi_thread *t, u32 state, u64 start)
{
	struct wi_slice *e = events.ringbuf_reserve(sizeof(*e));
	if (!e) {
		count_stat(WI_STAT_SLICES_LOST);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->header.type = WI_EV_SLICE;
	e->header.target = t->target;
	e->pid = t->pid;
	e->tid = t->tid;
	e->start_ns = start;
	e->state = state;
	e->syscall = 0xffff;
	e->fd = -1;
	e->waker_syscall = 0xffff;
	return e;
}

static __always_inline void submit_slice(struct wi_slice *e)
{
	/* User space looks two to twenty times a second. A burst would fill the ring before that, so every so many events
	 * wake it; not each of them, since a wake-up costs a hundred times an event. */
	int which = WI_STAT_SLICES;
	u64 *emitted = stats.lookup(&which);
	bool wake = emitted && (*emitted & (WI_WAKE_EVERY - 1)) == WI_WAKE_EVERY - 1;
	events.ringbuf_submit(e, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	count_stat(WI_STAT_SLICES);
}

static __always_inline bool emit_slice(struct wi_thread *t, u64 blocked, u64 runqueue)
{
	struct wi_slice *e = begin_slice(t, t->state, t->last_ns);
	if (!e)
		return false;
	e->blocked_ns = blocked;
	e->runqueue_ns = runqueue;
	e->arg = t->arg;
	e->inode = t->inode;
	e->syscall = t->syscall;
	e->fd = t->fd;
	e->peer = t->peer;
	e->peer_inode = t->peer_inode;
	if (t->wake_ns >= t->last_ns) { /* else that was of another sleep */
		e->waker_pid = t->waker_pid;
		e->waker_tid = t->waker_tid;
		e->waker_syscall = t->waker_syscall;
	}
	submit_slice(e);
	return true;
}

/*
 * Threads that share a CPU take turns of 3 to 25 ms, so each of them is preempted up to a hundred times a second:
 * beside models on a busy host all but one in a hundred slices were that. Those within WI_TURNS_NS become one slice,
 * where the first began, as long as all of them. A thread that falls asleep, or ends, has told them.
 */
#define WI_TURN_NS 32000000ULL  /* waits for a CPU from this long on are told alone */
#define WI_TURNS_NS 80000000ULL

static __always_inline void tell_turns(struct wi_thread *t)
{
	if (!t->turns_ns)
		return;
	struct wi_slice *e = begin_slice(t, WI_RUNQUEUE, t->turns_start_ns);
	if (e) {
		e->runqueue_ns = t->turns_ns;
		submit_slice(e);
	}
	t->turns_ns = 0;
}

static __always_inline void keep_turn(struct wi_thread *t, u64 ns)
{
	if (!t->turns_ns)
		t->turns_start_ns = t->last_ns;
	t->turns_ns += ns;
}
