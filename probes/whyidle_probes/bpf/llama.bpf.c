/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * llama_decode and llama_encode: the engine is busy from entry to return and idle in between. The gap
 * event carries what the driver thread did meanwhile, as a difference of its own totals, so its
 * decomposition is exact even when slices were lost or too short for an event.
 */
static __always_inline u64 total_of(struct wi_thread *t, int state, u64 now)
{
	u64 ns = t->ns[state];
	if (state == WI_RUNNING && now > t->last_ns) /* it runs right now: it is the caller */
		ns += now - t->last_ns;
	return ns;
}

int wi_llama_enter(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	struct wi_thread *t = thread_of(tid);
	if (!t)
		return 0;
	struct wi_engine_key key = { .pid = id >> 32, .context = PT_REGS_PARM1(ctx) };
	struct wi_engine *e = engines.lookup(&key);
	t->engine = key.context;
	if (!e) {
		int slot = 1;
		struct wi_thread *zero = scratch.lookup(&slot); /* as zeroed memory large enough */
		if (!zero)
			return 0;
		__builtin_memset(zero, 0, sizeof(struct wi_engine));
		struct wi_engine *fresh = (struct wi_engine *)zero;
		fresh->target = t->target;
		fresh->driver = tid;
		fresh->busy = 1;
		fresh->first_ns = now;
		fresh->last_ns = now;
		batch_begins(ctx, fresh, key.context, key.pid, tid, now, 0);
		if (engines.update(&key, fresh))
			count_stat(WI_STAT_ENGINES_LOST);
		return 0;
	}
	if (e->busy) { /* a return was missed: longjmp, or the probe came in the middle of a call */
		e->driver = tid;
		return 0;
	}
	u64 start = e->last_ns;
	u64 idle = now > start ? now - start : 0;
	u32 same = e->driver == tid;
	e->idle_ns += idle;
	e->gaps++;
	e->busy = 1;
	e->driver = tid;
	e->last_ns = now;
	batch_begins(ctx, e, key.context, key.pid, tid, now, idle);
	struct wi_config *c = config_of();
	if (!c || idle < c->gap_ns) {
		e->short_ns += idle;
		return 0;
	}
	struct wi_gap *g = events.ringbuf_reserve(sizeof(*g));
	if (!g) {
		count_stat(WI_STAT_GAPS_LOST);
		return 0;
	}
	g->header.type = WI_EV_GAP;
	g->header.target = t->target;
	g->pid = key.pid;
	g->tid = tid;
	g->context = key.context;
	g->start_ns = start;
	g->end_ns = now;
	g->known = same;
	g->pad = 0;
#pragma unroll
	for (int i = 0; i < WI_STATES; i++)
		g->ns[i] = total_of(t, i, now) - e->seen[i];
	events.ringbuf_submit(g, BPF_RB_NO_WAKEUP);
	return 0;
}

int wi_llama_return(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	struct wi_thread *t = thread_of(tid);
	if (!t || !t->engine)
		return 0;
	struct wi_engine_key key = { .pid = id >> 32, .context = t->engine };
	t->engine = 0;
	struct wi_engine *e = engines.lookup(&key);
	if (!e || !e->busy)
		return 0;
	u64 took = now > e->last_ns ? now - e->last_ns : 0;
	e->busy_ns += took;
	batch_ends(e, (int)PT_REGS_RC(ctx), now, took);
	e->calls++;
	e->busy = 0;
	e->last_ns = now;
#pragma unroll
	for (int i = 0; i < WI_STATES; i++)
		e->seen[i] = total_of(t, i, now);
	return 0;
}
