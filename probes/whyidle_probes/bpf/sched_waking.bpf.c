/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The end of a sleep. Only the first waking counts: a second one while the thread already waits for a
 * CPU changes nothing. In task context the current thread is the waker; in an interrupt it is whoever
 * happened to be interrupted.
 *
 * A thread in a selector is woken by one of many descriptors. Which one, an epoll instance has just put into
 * its list of those that are ready, before it wakes anybody. For the others (poll, io_uring_enter) the network
 * stack says so just before, on the same CPU: data arrived for a socket, or its TCP state changed. Messages for
 * others arrive there as well, so it has to be a socket that the thread polls.
 */
struct wi_socket_note {
	u64 sk;
	u64 ns;
	u32 tcp_state; /* 0: data arrived */
	u32 pad;
};
BPF_TABLE("percpu_array", int, struct wi_socket_note, socket_notes, 1);

#define WI_NOTE_LASTS_NS 20000 /* from the note to the waking: one call of the same softirq */

/* Where a socket keeps who is to be woken: the head of a list. */
static __always_inline u64 waiters_of(u64 sk)
{
	u64 queue = 0;
	PROBE_READ(&queue, sk + offsetof(struct sock, sk_wq));
	return queue ? queue + offsetof(struct socket_wq, wait) + offsetof(struct wait_queue_head, head) : 0;
}

static __always_inline u64 after(u64 entry)
{
	u64 next = 0;
	PROBE_READ(&next, entry + offsetof(struct list_head, next));
	return next;
}

static __always_inline void note_socket(u64 sk, u32 tcp_state)
{
	int zero = 0;
	u64 queue = waiters_of(sk);
	if (!queue || after(queue) == queue) /* nobody to wake */
		return;
	struct wi_socket_note *note = socket_notes.lookup(&zero);
	if (!note)
		return;
	note->sk = sk;
	note->tcp_state = tcp_state;
	note->ns = bpf_ktime_get_ns();
}

/* Every message of the host comes by here: attached only when somebody has slept who needs it. */
int wi_data_ready(u64 *ctx)
{
	note_socket(ARG(ctx, 0), 0);
	return 0;
}

int wi_tcp_state(u64 *ctx)
{
	note_socket(ARG(ctx, 0), (u32)ARG(ctx, 2));
	return 0;
}

static __always_inline u64 private_of(u64 task, int fd)
{
	u64 file = file_of(task, fd), private = 0;
	if (file)
		PROBE_READ(&private, file + offsetof(struct file, private_data));
	return private;
}

/* The socket behind the descriptor that a thread waits for. */
static __always_inline u64 awaited(struct wi_thread *t, u64 task)
{
	u64 socket = private_of(task, t->fd), sk = 0;
	if (socket)
		PROBE_READ(&sk, socket + offsetof(struct socket, sk));
	return sk;
}

#ifdef WI_EPOLL_READY
/* The first socket that is ready in the epoll instance that a thread sleeps in: the one that wakes it. */
static __always_inline u64 first_ready(u64 epoll)
{
	u64 item = 0, file = 0, inode = 0, socket = 0, sk = 0;
	u16 mode = 0;
	u64 list = epoll + offsetof(struct eventpoll, rdllist);
	PROBE_READ(&item, list + offsetof(struct list_head, next));
	if (!item || item == list)
		return 0;
	item -= offsetof(struct epitem, rdllink);
	PROBE_READ(&file, item + offsetof(struct epitem, ffd) + offsetof(struct WI_EPOLL_READY, file));
	PROBE_READ(&inode, file + offsetof(struct file, f_inode));
	PROBE_READ(&mode, inode + offsetof(struct inode, i_mode));
	if ((mode & WI_S_IFMT) != WI_S_IFSOCK)
		return 0;
	PROBE_READ(&socket, file + offsetof(struct file, private_data));
	PROBE_READ(&sk, socket + offsetof(struct socket, sk));
	return sk;
}

/* Whether nothing is ready there, so that time or a signal wakes the thread. What becomes ready while somebody reads
 * the list goes to another, which is -1 at other times. The last entry of the list is set before the first. */
static __always_inline bool none_ready(u64 epoll)
{
#ifdef WI_EPOLL_OVERFLOW
	u64 list = epoll + offsetof(struct eventpoll, rdllist), last = 0, meanwhile = 0;
	if (PROBE_READ(&last, list + offsetof(struct list_head, prev)) ||
	    PROBE_READ(&meanwhile, epoll + offsetof(struct eventpoll, ovflist)))
		return false;
	return last == list && meanwhile + 1 <= 1;
#else
	return false;
#endif
}
#endif

#define WI_MAX_POLLERS 16

/* The thread that an entry in a queue of who is to be woken is of, if it is of a poll or of a ring's request. */
static __always_inline u64 poller_of(u16 state, u64 private)
{
	u64 task = 0;
	if (state == WI_POLL) {
		PROBE_READ(&task, private + offsetof(struct poll_wqueues, polling_task));
		return task;
	}
	private &= ~7ULL; /* a request may have two entries, which are marked */
#if defined(WI_URING_TASK)
	PROBE_READ(&task, private + offsetof(struct io_kiocb, task));
#elif defined(WI_URING_CONTEXT)
	u64 context = 0;
	PROBE_READ(&context, private + offsetof(struct io_kiocb, tctx));
	PROBE_READ(&task, context + offsetof(struct io_uring_task, task));
#endif
	return task;
}

/* Whether a thread sleeps until a socket has something for it: it is in the socket's queue then. A request that
 * waits once has left it before its thread is woken, and then the queue is empty that was not. */
static __always_inline bool polls(u16 state, u64 task, u64 sk)
{
	u64 queue = waiters_of(sk);
	if (!queue)
		return false;
	u64 entry = after(queue);
	if (entry == queue)
		return state == WI_IO_URING;
	for (int i = 0; i < WI_MAX_POLLERS && entry && entry != queue; i++) {
		u64 private = 0;
		PROBE_READ(&private, entry - offsetof(struct wait_queue_entry, entry) +
					     offsetof(struct wait_queue_entry, private));
		if (poller_of(state, private) == task)
			return true;
		entry = after(entry);
	}
	return false;
}

/* Whether a note is of one of the many that a thread waits for. */
static __always_inline bool woke(struct wi_thread *t, u64 task, struct wi_socket_note *note)
{
	if (t->state == WI_POLL)
		return polls(WI_POLL, task, note->sk);
#if defined(WI_URING_TASK) || defined(WI_URING_CONTEXT)
	if (t->state == WI_IO_URING && !polls(WI_IO_URING, task, note->sk))
		return false;
#endif
	return t->wake_ns - note->ns <= WI_NOTE_LASTS_NS; /* just now */
}

/* Of a wait in a selector nobody is told the peer unless it becomes a slice, if need be by the queue after it. */
static __always_inline bool too_short_to_tell(struct wi_thread *t)
{
	struct wi_config *c = config_of();
	return c && t->state != WI_TCP && t->wake_ns - t->last_ns < c->slice_ns / 4;
}

static __always_inline void note_cause(struct wi_thread *t, u64 task)
{
	if (too_short_to_tell(t))
		return;
	int zero = 0;
	struct wi_socket_note *note = socket_notes.lookup(&zero);
	if (!note)
		return;
	bool noted = note->sk && note->ns >= t->last_ns; /* not of before this sleep */
#ifdef WI_EPOLL_READY
	if (t->state == WI_EPOLL) {
		u64 epoll = private_of(task, t->fd), sk = epoll ? first_ready(epoll) : 0;
		if (!sk) {
			if (epoll && none_ready(epoll))
				t->waker_syscall = 0xffff; /* of whom the timer interrupted */
			return;
		}
		resolve_sock(t, sk);
		noted = noted && note->sk == sk;
	} else
#endif
	if (t->state == WI_TCP) /* which waits for one socket, and the note is of that one or not */
		noted = noted && awaited(t, task) == note->sk;
	else {
		noted = noted && woke(t, task, note);
		if (noted)
			resolve_sock(t, note->sk);
	}
	if (!noted)
		return;
	t->peer.tcp_end = note->tcp_state;
	note->sk = 0;
}

/* Whether a thread, about to be woken, has left the queue of its CPU to sleep. (Since 6.12 it may stay in it.) */
static __always_inline bool dequeued(u64 task)
{
#ifdef WI_SCHED_DELAYED
	if (TASK(task, se.sched_delayed))
		return true;
#endif
	return !TASK(task, on_rq);
}

/*
 * Whether it is off it by now. In this order: who leaves a CPU to sleep leaves its queue, is seen to (which sets the
 * state), and is off the CPU, and only this waking can bring it back. One that was preempted on its way to sleep is in
 * the queue.
 */
static __always_inline bool off_its_cpu(u64 task)
{
	bool asleep = dequeued(task);
	barrier();
	int on_cpu = TASK(task, on_cpu);
	barrier();
	return asleep && !on_cpu;
}

/*
 * A thread that is woken without ever having left its CPU: that switch was not shown. It has left it, so that event
 * is over, and it sleeps still: what in can be told as well as then. Since when, the scheduler's account of its run
 * says, without what a hypervisor took of that.
 */
static __always_inline void slept_unseen(struct wi_thread *t, u64 task)
{
	left_unseen(t, task, WI_UNKNOWN, bpf_ktime_get_ns());
	write_begin(t);
	fall_asleep(t, task, (u32)TASK(task, WI_TASK_STATE), false);
	write_end(t);
}

static __always_inline void note_waker(struct wi_thread *t)
{
	u64 waker = bpf_get_current_pid_tgid();
	t->waker_pid = waker >> 32;
	t->waker_tid = (u32)waker;
	t->waker_syscall = 0xffff;
	if (t->waker_pid) {
		u64 nr = LOAD(pt_regs, wi_task_pt_regs(wi_current_task()), orig_ax);
		if (nr < WI_SYSCALLS)
			t->waker_syscall = nr;
	}
	barrier();
	t->wake_ns = bpf_ktime_get_ns(); /* the last: a thread that is about to sleep is seen to meanwhile */
}

int wi_sched_waking(u64 *ctx)
{
	u64 task = ARG(ctx, 0);
	u32 tid = TASK(task, pid);
	struct wi_thread *t = thread_of(tid);
	if (!t || t->end_ns)
		return 0;
	if (t->state == WI_RUNNING && off_its_cpu(task) && t->state == WI_RUNNING) /* still, whatever was seen since */
		slept_unseen(t, task);
	if (t->state == WI_RUNNING) {
		if (task != (u64)wi_current_task()) /* it may be about to sleep: see settle_waking */
			note_waker(t);
		return 0;
	}
	if (t->state == WI_RUNQUEUE || t->wake_ns > t->last_ns)
		return 0;
	write_begin(t);
	note_waker(t);
	/* io_uring's completion runs in the thread itself, which the same call of the softirq wakes for it. */
	if (t->state == WI_EPOLL || t->state == WI_POLL || t->state == WI_IO_URING || t->state == WI_TCP)
		note_cause(t, task);
	write_end(t);
	return 0;
}
