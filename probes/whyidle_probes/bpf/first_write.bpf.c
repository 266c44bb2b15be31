/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a client calls its peer: the first write of a TCP connection, when it begins as a TLS ClientHello or as an
 * HTTP/1 request does. Of anything else, and of all later writes, not a byte is read. User space takes the name and
 * the path from it and drops the rest.
 *
 * sock_send_length fires at the end of each send, in the sender's context: its saved registers say where
 * the data is. For any write but the first of a connection that is a look at three numbers.
 */
BPF_RINGBUF_OUTPUT(first_writes, WI_FIRST_PAGES);

static u64 (*wi_tcp_sock)(u64 sk) = (void *)137;

struct wi_iovec {
	u64 base;
	u64 length;
};

/* The first piece of what the current syscall sends. */
static __always_inline bool sent_by(u64 regs, struct wi_iovec *piece)
{
	u64 at = LOAD(pt_regs, regs, si);
	u64 nr = LOAD(pt_regs, regs, orig_ax);

	if (nr == WI_NR_WRITE || nr == WI_NR_SENDTO) {
		piece->base = at;
		piece->length = LOAD(pt_regs, regs, dx);
		return true;
	}
	if (nr == WI_NR_SENDMSG || nr == WI_NR_SENDMMSG) { /* struct user_msghdr: msg_iov is at 16 */
		if (bpf_probe_read_user(&at, sizeof(at), (void *)(at + 16)))
			return false;
	} else if (nr != WI_NR_WRITEV) {
		return false;
	}
	return !bpf_probe_read_user(piece, sizeof(*piece), (void *)at);
}

/* Whether `sent` bytes are all that was ever written. The acknowledgement of a SYN counts as a byte. */
static __always_inline bool wrote_first(u64 tcp, u32 sent)
{
	u32 waiting = FIELD(tcp_sock, tcp, write_seq) - FIELD(tcp_sock, tcp, snd_una);
	u64 written = FIELD(tcp_sock, tcp, bytes_acked) + waiting;
	return written == sent || written == (u64)sent + 1;
}

/* How much of a first write may be needed, by its first eight bytes (little-endian); 0: it is none of ours. */
static __always_inline u32 worth_reading(u64 head)
{
	if ((head & 0xff000000ffffULL) == 0x010000000316ULL)
		return WI_FIRST_WRITE; /* a TLS handshake record, and in it a ClientHello */
	switch ((u32)head) {
	case 0x20544547: /* GET_ */
	case 0x54534f50: /* POST */
	case 0x44414548: /* HEAD */
	case 0x20545550: /* PUT_ */
	case 0x454c4544: /* DELE|TE */
	case 0x4954504f: /* OPTI|ONS */
	case 0x43544150: /* PATC|H */
		return WI_FIRST_REQUEST;
	}
	return 0;
}

int wi_sent(u64 *ctx)
{
	int sent = (int)ARG(ctx, 1);
	if (sent < (int)sizeof(u64))
		return 0;
	/* What nearly every write fails by comes first: plain loads of what the kernel has just used. */
	u64 sk = ARG(ctx, 0);
	if (FIELD(sock, sk, sk_protocol) != WI_IPPROTO_TCP)
		return 0;
	u64 tcp = wi_tcp_sock(sk);
	if (!tcp || !wrote_first(tcp, sent))
		return 0;
	u64 id = bpf_get_current_pid_tgid();
	struct wi_thread *t = thread_of((u32)id);
	if (!t)
		return 0;
	struct wi_iovec piece = {};
	u64 head = 0;
	if (!sent_by(wi_task_pt_regs(wi_current_task()), &piece) || piece.length < sizeof(head))
		return 0;
	if (bpf_probe_read_user(&head, sizeof(head), (void *)piece.base))
		return 0;
	u64 size = worth_reading(head);
	if (!size)
		return 0;
	if (size > piece.length)
		size = piece.length;
	if (size > sent)
		size = sent;
	struct wi_first_write *e = first_writes.ringbuf_reserve(sizeof(*e));
	if (!e) {
		count_stat(WI_STAT_NAMES_LOST);
		return 0;
	}
	e->header.type = WI_EV_FIRST_WRITE;
	e->header.target = t->target;
	e->ns = bpf_ktime_get_ns();
	e->pid = id >> 32;
	e->tid = (u32)id;
	e->length = size;
	e->pad = 0;
	peer_of(&e->peer, sk);
	asm volatile("" : "+r"(size)); /* the bound below must be in the program, not in the compiler's head */
	if (size > WI_FIRST_WRITE || bpf_probe_read_user(e->data, size, (void *)piece.base))
		e->length = 0;
	first_writes.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}
