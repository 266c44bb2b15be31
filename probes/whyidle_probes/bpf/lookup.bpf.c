/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * getaddrinfo: which name was looked up, how long that took, and which addresses came back. Names are how
 * people know their peers, and a lookup is a wait like any other. Nothing else of the program is read.
 */
struct wi_asked {
	u64 name;
	u64 result;
	u64 start_ns;
};
BPF_TABLE("lru_hash", u32, struct wi_asked, asked, 1024);

/* The C library's struct addrinfo on 64-bit machines. */
struct wi_addrinfo {
	int flags, family, socktype, protocol;
	u32 length, pad;
	u64 address;
	u64 canonical;
	u64 next;
};

int wi_lookup_enter(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	if (!thread_of(tid))
		return 0;
	struct wi_asked a = {
		.name = PT_REGS_PARM1(ctx), .result = PT_REGS_PARM4(ctx), .start_ns = bpf_ktime_get_ns()
	};
	asked.update(&tid, &a);
	return 0;
}

int wi_lookup_return(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	struct wi_thread *t = thread_of(tid);
	struct wi_asked *a = asked.lookup(&tid);
	if (!t || !a)
		return 0;
	struct wi_lookup *e = control.ringbuf_reserve(sizeof(*e));
	if (!e) {
		count_stat(WI_STAT_CONTROL_LOST);
		asked.delete(&tid);
		return 0;
	}
	e->header.type = WI_EV_LOOKUP;
	e->header.target = t->target;
	e->start_ns = a->start_ns;
	e->end_ns = bpf_ktime_get_ns();
	e->pid = id >> 32;
	e->tid = tid;
	e->status = (int)PT_REGS_RC(ctx);
	e->count = 0;
	__builtin_memset(e->families, 0, sizeof(e->families) + sizeof(e->addresses));
	if (bpf_probe_read_user_str(e->host, sizeof(e->host), (void *)a->name) < 0)
		e->host[0] = 0;
	u64 next = 0;
	if (e->status == 0)
		bpf_probe_read_user(&next, sizeof(next), (void *)a->result);
#pragma unroll
	for (int i = 0; i < WI_ADDRESSES; i++) {
		struct wi_addrinfo info = {};
		if (!next || bpf_probe_read_user(&info, sizeof(info), (void *)next))
			break;
		e->families[i] = info.family;
		if (info.family == WI_AF_INET) /* struct sockaddr_in: the address is at 4, in sockaddr_in6 at 8 */
			bpf_probe_read_user(e->addresses + i * 16, 4, (void *)(info.address + 4));
		else if (info.family == WI_AF_INET6)
			bpf_probe_read_user(e->addresses + i * 16, 16, (void *)(info.address + 8));
		e->count = i + 1;
		next = info.next;
	}
	control.ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	asked.delete(&tid);
	return 0;
}
