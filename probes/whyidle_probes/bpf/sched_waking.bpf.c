/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The end of a sleep. Only the first waking counts: a second one while the thread already waits for a
 * CPU changes nothing. In task context the current thread is the waker; in an interrupt it is whoever
 * happened to be interrupted.
 *
 * A thread in a selector (or in io_uring_enter) is woken by one of many sockets. Which one, the network stack says just before, on
 * the same CPU: data arrived for it, or its TCP state changed.
 */
struct wi_socket_note {
	u64 sk;
	u64 ns;
	u32 tcp_state; /* 0: data arrived */
	u32 pad;
};
BPF_TABLE("percpu_array", int, struct wi_socket_note, socket_notes, 1);

#define WI_NOTE_LASTS_NS 20000 /* from the note to the waking: one call of the same softirq */

static __always_inline void note_socket(u64 sk, u32 tcp_state)
{
	int zero = 0;
	struct wi_socket_note *note = socket_notes.lookup(&zero);
	if (!note)
		return;
	note->sk = sk;
	note->tcp_state = tcp_state;
	note->ns = bpf_ktime_get_ns();
}

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

/* Whether the first who is told of a socket's events is the epoll instance that a thread sleeps in. */
static __always_inline bool watches(struct wi_thread *t, u64 task, u64 sk)
{
#ifdef WI_EPOLL_ENTRY
	u64 epoll = private_of(task, t->fd), queue = 0, entry = 0, item = 0, owner = 0;
	PROBE_READ(&queue, sk + offsetof(struct sock, sk_wq));
	if (!epoll || !queue)
		return false;
	PROBE_READ(&entry, queue + offsetof(struct socket_wq, wait.head.next));
	entry -= offsetof(struct eppoll_entry, wait.entry);
	PROBE_READ(&item, entry + offsetof(struct eppoll_entry, base));
	PROBE_READ(&owner, item + offsetof(struct epitem, ep));
	return owner == epoll;
#else
	return false;
#endif
}

static __always_inline void note_cause(struct wi_thread *t, u64 task)
{
	int zero = 0;
	struct wi_socket_note *note = socket_notes.lookup(&zero);
	if (!note || !note->sk)
		return;
	if (note->ns < t->last_ns) /* of before this sleep */
		return;
	if (t->state == WI_TCP) { /* which waits for one socket, and the note is of that one or not */
		if (awaited(t, task) != note->sk)
			return;
	} else { /* one of many: just now, or (a slow machine) one that the thread would be told of */
		if (t->wake_ns - note->ns > WI_NOTE_LASTS_NS &&
		    (t->state != WI_EPOLL || !watches(t, task, note->sk)))
			return;
		resolve_sock(t, note->sk);
	}
	t->peer.tcp_end = note->tcp_state;
	note->sk = 0;
}

int wi_sched_waking(u64 *ctx)
{
	u64 task = ARG(ctx, 0);
	u32 tid = TASK(task, pid);
	struct wi_thread *t = thread_of(tid);
	if (!t || t->state <= WI_RUNQUEUE || t->wake_ns)
		return 0;
	write_begin(t);
	t->wake_ns = bpf_ktime_get_ns();
	u64 waker = bpf_get_current_pid_tgid();
	t->waker_pid = waker >> 32;
	t->waker_tid = (u32)waker;
	t->waker_syscall = 0xffff;
	if (t->waker_pid) {
		u64 nr = LOAD(pt_regs, wi_task_pt_regs(wi_current_task()), orig_ax);
		if (nr < WI_SYSCALLS)
			t->waker_syscall = nr;
	}
	/* io_uring's completion runs in the thread itself, which the same call of the softirq wakes for it. */
	if (t->state == WI_EPOLL || t->state == WI_POLL || t->state == WI_IO_URING || t->state == WI_TCP)
		note_cause(t, task);
	write_end(t);
	return 0;
}
