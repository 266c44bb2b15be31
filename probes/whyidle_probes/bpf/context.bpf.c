/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * llama_init_from_model: with which parameters a context was made. Its KV cache's size depends on them, and
 * they are written down nowhere else. The parameters are passed as the batch of llama_decode is.
 */
struct wi_making {
	u64 model;
	unsigned char parameters[WI_PARAMETERS];
};
BPF_TABLE("lru_hash", u32, struct wi_making, making, 256);

int wi_context_enter(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	if (!thread_of(tid))
		return 0;
	struct wi_making m = { .model = PT_REGS_PARM1(ctx) };
	bpf_probe_read_user(m.parameters, sizeof(m.parameters), (void *)batch_address(ctx));
	making.update(&tid, &m);
	return 0;
}

int wi_context_return(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	u64 context = PT_REGS_RC(ctx);
	struct wi_thread *t = thread_of(tid);
	struct wi_making *m = making.lookup(&tid);
	if (!t || !m)
		return 0;
	struct wi_context *e = context ? control.ringbuf_reserve(sizeof(*e)) : NULL;
	if (!e) {
		if (context)
			count_stat(WI_STAT_CONTROL_LOST);
		making.delete(&tid);
		return 0;
	}
	e->header.type = WI_EV_CONTEXT;
	e->header.target = t->target;
	e->ns = bpf_ktime_get_ns();
	e->pid = id >> 32;
	e->tid = tid;
	e->context = context;
	e->model = m->model;
	__builtin_memcpy(e->parameters, m->parameters, sizeof(e->parameters));
	control.ringbuf_submit(e, 0);
	making.delete(&tid);
	return 0;
}
