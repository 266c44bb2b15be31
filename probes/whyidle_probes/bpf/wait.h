/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a sleeping thread waits for: its syscall by its own saved registers, the descriptor by its file
 * table. Costs nothing until a thread really sleeps, which is why no syscall is ever traced.
 */
#define WI_S_IFMT 0170000
#define WI_S_IFSOCK 0140000
#define WI_S_IFREG 0100000
#define WI_S_IFBLK 0060000
#define WI_S_IFDIR 0040000
#define WI_S_IFCHR 0020000
#define WI_S_IFIFO 0010000
#define WI_AF_UNIX 1
#define WI_AF_INET 2
#define WI_AF_INET6 10
#define WI_SOCK_STREAM 1
#define WI_SOCK_DGRAM 2
#define WI_TCP_LISTEN 10
#define WI_IPPROTO_TCP 6

#define WI_TASK_UNINTERRUPTIBLE 0x0002
#define WI_TASK_STOPPED_OR_TRACED 0x000c
#define WI_TASK_DEAD 0x0080
#define WI_TASK_WAKING 0x0200
#define WI_TASK_FROZEN 0x8000

/* The start of struct sock: enough for both ends of an IPv4 or IPv6 socket. */
struct wi_sock_head {
	u8 bytes[offsetof(struct sock_common, skc_v6_rcv_saddr) + 16];
};
#define SOCK_AT(head, type, member) (*(type *)((head)->bytes + offsetof(struct sock_common, member)))

/* Both ends of a socket into a peer; says what kind of wait a wait for it is. */
static __always_inline u16 peer_of(struct wi_peer *peer, u64 sk)
{
	u16 type = 0;
	struct wi_sock_head head;
	__builtin_memset(peer, 0, sizeof(*peer)); /* a thread's was of the wait before */
	PROBE_READ(&type, sk + offsetof(struct sock, sk_type));
	if (PROBE_READ(&head, sk))
		return WI_SOCKET;
	u16 family = SOCK_AT(&head, u16, skc_family);
	peer->family = family;
	peer->type = type;
	peer->tcp_state = SOCK_AT(&head, u8, skc_state);
	if (family == WI_AF_UNIX)
		return WI_UNIX;
	if (family == WI_AF_INET) {
		*(u32 *)peer->local = SOCK_AT(&head, u32, skc_rcv_saddr);
		*(u32 *)peer->remote = SOCK_AT(&head, u32, skc_daddr);
	} else if (family == WI_AF_INET6) {
		__builtin_memcpy(peer->local, head.bytes + offsetof(struct sock_common, skc_v6_rcv_saddr), 16);
		__builtin_memcpy(peer->remote, head.bytes + offsetof(struct sock_common, skc_v6_daddr), 16);
	} else {
		return WI_SOCKET;
	}
	peer->local_port = SOCK_AT(&head, u16, skc_num);
	peer->remote_port = __builtin_bswap16(SOCK_AT(&head, u16, skc_dport));
	if (type == WI_SOCK_STREAM)
		return peer->tcp_state == WI_TCP_LISTEN ? WI_LISTEN : WI_TCP;
	return type == WI_SOCK_DGRAM ? WI_UDP : WI_SOCKET;
}

static __always_inline u16 resolve_sock(struct wi_thread *t, u64 sk)
{
	u16 wait = peer_of(&t->peer, sk);
#ifdef WI_UNIX_PEER
	if (wait == WI_UNIX) {
		u64 other = 0, socket = 0;
		PROBE_READ(&other, sk + offsetof(struct unix_sock, peer));
		if (other)
			PROBE_READ(&socket, other + offsetof(struct sock, sk_socket));
		if (socket)
			PROBE_READ(&t->peer_inode, socket - offsetof(struct socket_alloc, socket) +
				   offsetof(struct socket_alloc, vfs_inode) + offsetof(struct inode, i_ino));
	}
#endif
	return wait;
}

static __always_inline u16 resolve_socket(struct wi_thread *t, u64 file_private)
{
	u64 sk = 0;
	PROBE_READ(&sk, file_private + offsetof(struct socket, sk));
	return sk ? resolve_sock(t, sk) : WI_SOCKET;
}

/* The open file behind a descriptor, 0 when there is none. */
static __always_inline u64 file_of(u64 task, int fd)
{
	u64 files = (u64)LOAD(task_struct, task, files), file = 0;
	if (!files || fd < 0)
		return 0;
	u64 fdt = (u64)LOAD(files_struct, files, fdt);
	if (!fdt || (u32)fd >= LOAD(fdtable, fdt, max_fds))
		return 0;
	PROBE_READ(&file, (u64)LOAD(fdtable, fdt, fd) + (u64)(u32)fd * 8);
	return file;
}

/* Where the last component of a file's name is, and its first eight bytes. */
static __always_inline u64 name_of(u64 file, u64 *start)
{
	u64 dentry = 0, name = 0;
	PROBE_READ(&dentry, file + offsetof(struct file, f_path) + offsetof(struct path, dentry));
	PROBE_READ(&name, dentry + offsetof(struct dentry, d_name) + offsetof(struct qstr, name));
	PROBE_READ(start, name);
	return name;
}

/* eventpoll, eventfd and their like share one inode; the name of the dentry tells them apart. */
static __always_inline u16 resolve_anonymous(u64 file)
{
	u64 text = 0;
	name_of(file, &text);
	switch (text) { /* the first eight bytes, little-endian */
	case 0x6f70746e6576655bULL: /* [eventpo|ll] */
		return WI_EPOLL;
	case 0x6466746e6576655bULL: /* [eventfd|] */
		return WI_EVENTFD;
	case 0x646672656d69745bULL: /* [timerfd|] */
		return WI_SLEEP;
	case 0x666c616e6769735bULL: /* [signalf|d] */
		return WI_SIGNAL;
	case 0x6e6972755f6f695bULL: /* [io_urin|g] */
		return WI_IO_URING;
	case 0x005d64666469705bULL: /* [pidfd] */
		return WI_CHILD;
	}
	return WI_ANON;
}

static __always_inline u16 resolve_fd(struct wi_thread *t, u64 task, int fd)
{
	u64 file = file_of(task, fd), inode = 0, private = 0;
	u16 mode = 0;
	t->fd = fd;
	if (!file)
		return WI_OTHER;
	PROBE_READ(&inode, file + offsetof(struct file, f_inode));
	PROBE_READ(&mode, inode + offsetof(struct inode, i_mode));
	PROBE_READ(&t->inode, inode + offsetof(struct inode, i_ino));
	switch (mode & WI_S_IFMT) {
	case WI_S_IFSOCK:
		PROBE_READ(&private, file + offsetof(struct file, private_data));
		return resolve_socket(t, private);
	case WI_S_IFIFO:
		return WI_PIPE;
	case WI_S_IFREG:
	case WI_S_IFDIR:
		return WI_FILE;
	case WI_S_IFCHR:
	case WI_S_IFBLK:
		return WI_DEVICE;
	}
	return resolve_anonymous(file);
}

#define WI_POLL_MAX 4
#define WI_SOCKETS (1ULL << WI_TCP | 1ULL << WI_UDP | 1ULL << WI_LISTEN | 1ULL << WI_SOCKET)
#define barrier_var(x) asm volatile("" : "+r"(x))

struct wi_pollfd {
	int fd;
	short events, revents;
};

/* What a thread waits for in a call on several descriptors: one of them, and which answers count then, as a
 * mask of states (any other is WI_POLL); or else `state`. Looking at a descriptor is most of this program, so
 * all ways lead to one place where it is done. */
struct wi_choice {
	int fd;
	u16 state;
	u64 accepted;
};

/* A poll on one descriptor is a wait for that descriptor (CPython does so for every socket that has a
 * timeout, getaddrinfo for its server). So is one on a single connected socket beside pipes, eventfds and
 * such, through which the thread can be called off (libcurl). Anything else is a loop that waits for whatever
 * comes. Reads user memory, so only for the current task. */
static __always_inline void choose_polled(struct wi_choice *choice, struct wi_thread *t, u64 task, u64 fds,
					  u64 count, bool current)
{
	struct wi_pollfd set[WI_POLL_MAX] = {};
	u64 sockets = 0, pipes = 0;

	choice->state = count == 0 ? WI_SLEEP : WI_POLL;
	if (count == 0 || !current || count > WI_POLL_MAX)
		return;
	u64 size = count * sizeof(set[0]);
	barrier_var(size); /* or the compiler sees this bound in the one above, and verifiers before 6.13 do not */
	if (size > sizeof(set) || bpf_probe_read_user(set, size, (void *)fds))
		return;
	choice->fd = set[0].fd;
	choice->accepted = ~(1ULL << WI_OTHER);
	if (count == 1)
		return;
	choice->accepted = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < WI_POLL_MAX; i++) {
		if (i >= count)
			break;
		/* Counted without a branch, by a number from memory: the verifier would look at every mix of kinds
		 * of descriptors by itself, which made loading ten times as long. */
		int fd = set[i].fd;
		t->state = resolve_fd(t, task, fd);
		u64 kind = 1ULL << (*(volatile u16 *)&t->state & 63), socket = !!(kind & WI_SOCKETS);
		barrier_var(socket);
		sockets += socket;
		choice->fd ^= (choice->fd ^ fd) & -socket;
		pipes += (kind >> WI_PIPE) & 1;
	}
	if (pipes == count) /* the output of a child, as subprocess reads it */
		choice->state = WI_PIPE;
	else if (sockets == 1)
		choice->accepted = 1ULL << WI_TCP | 1ULL << WI_UDP;
}

/* 1 for anything but 0, without a branch. */
static __always_inline u64 is_set(u64 bits)
{
	u64 less = -bits;
	barrier_var(less);
	return (bits | less) >> 63;
}

/* select: one descriptor below 64 in one of the read and write sets is a wait for it. */
static __always_inline void choose_selected(struct wi_choice *choice, u64 count, u64 readers, u64 writers,
					    bool current)
{
	u64 set = 0, word = 0;
	choice->state = count == 0 ? WI_SLEEP : WI_POLL;
	if (count == 0 || !current || count > 64)
		return;
	if (readers && !bpf_probe_read_user(&word, sizeof(word), (void *)readers))
		set |= word;
	if (writers && !bpf_probe_read_user(&word, sizeof(word), (void *)writers))
		set |= word;
	if (count < 64)
		set &= (1ULL << (count & 63)) - 1;
	if (!set) {
		choice->state = WI_SLEEP;
		return;
	}
	/* Count trailing zeroes by halving: BPF has no instruction for it. */
	u64 low = set & -set;
	int fd = 0;
	fd += is_set(low & 0xffffffff00000000ULL) << 5;
	fd += is_set(low & 0xffff0000ffff0000ULL) << 4;
	fd += is_set(low & 0xff00ff00ff00ff00ULL) << 3;
	fd += is_set(low & 0xf0f0f0f0f0f0f0f0ULL) << 2;
	fd += is_set(low & 0xccccccccccccccccULL) << 1;
	fd += is_set(low & 0xaaaaaaaaaaaaaaaaULL);
	choice->fd = fd;
	choice->accepted = low == set ? ~(1ULL << WI_OTHER) : 1ULL << WI_STATES;
}

static __always_inline bool in_iowait(u64 task)
{
	return *(u8 *)(task + WI_IOWAIT_BYTE) & WI_IOWAIT_MASK;
}

/* Of no descriptor, and so of no peer. */
static __always_inline void of_nobody(struct wi_thread *t)
{
	t->fd = -1;
	t->inode = 0;
	t->peer_inode = 0;
	t->peer.family = 0;
	t->peer.tcp_end = 0;
}

static __always_inline u16 resolve_syscall(struct wi_thread *t, u64 task, u64 regs, u32 task_state, bool current)
{
	u64 di = LOAD(pt_regs, regs, di), si = LOAD(pt_regs, regs, si);
	u64 dx = LOAD(pt_regs, regs, dx);
	int nr = t->syscall;
	u8 *class = syscall_class.lookup(&nr);
	struct wi_choice choice = { .fd = (int)di };
	t->arg = di;
	switch (class ? *class : WI_CLASS_OTHER) {
	case WI_CLASS_FD:
		choice.accepted = ~0ULL;
		break;
	case WI_CLASS_POLL:
		choose_polled(&choice, t, task, di, si, current);
		break;
	case WI_CLASS_SELECT:
		choose_selected(&choice, di, si, dx, current);
		break;
	case WI_CLASS_EPOLL:
		t->fd = (int)di;
		return WI_EPOLL;
	case WI_CLASS_FUTEX: {
		u32 pid = TASK(task, tgid);
		struct wi_range *gil = gils.lookup(&pid);
		return gil && di >= gil->start && di < gil->end ? WI_GIL : WI_FUTEX;
	}
	case WI_CLASS_SLEEP:
		return WI_SLEEP;
	case WI_CLASS_CHILD:
		return WI_CHILD;
	case WI_CLASS_SIGNAL:
		return WI_SIGNAL;
	case WI_CLASS_IO_URING:
		return WI_IO_URING;
	case WI_CLASS_SYSV_IPC:
		return WI_SYSV_IPC;
	case WI_CLASS_MEMORY:
		return WI_MEMORY;
	default:
		return (task_state & WI_TASK_UNINTERRUPTIBLE) && in_iowait(task) ? WI_DISK : WI_OTHER;
	}
	if (choice.accepted) {
		u16 state = resolve_fd(t, task, choice.fd);
		if ((choice.accepted >> (state & 63)) & 1)
			return state;
		choice.state = WI_POLL;
	}
	if (choice.state == WI_POLL)
		of_nobody(t); /* what was looked at is one of many */
	return choice.state;
}

/* Whether only a note of what arrives can tell what will wake a thread. */
static __always_inline bool needs_notes(u16 state)
{
#ifndef WI_EPOLL_READY
	if (state == WI_EPOLL)
		return true;
#endif
	return state == WI_POLL || state == WI_IO_URING;
}

/* Every message of the host would make a note, so that program is not attached before somebody sleeps who needs
 * it: user space attaches it within a millisecond, and no slice is shorter. */
static __always_inline void want_notes(void)
{
	int zero = 0;
	u32 *wanted = notes_wanted.lookup(&zero);
	if (!wanted || *wanted)
		return;
	struct wi_header *e = control.ringbuf_reserve(sizeof(*e));
	if (!e) /* the next one asks again */
		return;
	*wanted = 1; /* two CPUs at once ask twice: harmless */
	e->type = WI_EV_NOTES_WANTED;
	e->target = 0;
	control.ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
}

/* Sets state, syscall, fd, arg, inode and peer of a thread that goes (or was found) asleep. */
static __always_inline void resolve_wait(struct wi_thread *t, u64 task, u32 task_state, bool current)
{
	t->syscall = 0xffff;
	t->arg = 0;
	of_nobody(t);
	if (task_state & (WI_TASK_STOPPED_OR_TRACED | WI_TASK_FROZEN)) {
		t->state = WI_STOPPED;
		return;
	}
	u64 regs = wi_task_pt_regs(task);
	u64 nr = LOAD(pt_regs, regs, orig_ax);
	if (nr >= WI_SYSCALLS) { /* -1: entered by an exception, not by a syscall */
		t->state = WI_FAULT;
		return;
	}
	t->syscall = nr;
	t->state = resolve_syscall(t, task, regs, task_state, current);
	if (needs_notes(t->state))
		want_notes();
}
