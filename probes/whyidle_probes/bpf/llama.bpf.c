/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * llama_decode and llama_encode: the engine is busy from entry to return and idle in between. The gap
 * event carries what the driver thread did meanwhile, as a difference of its own totals, so its
 * decomposition is exact even when slices were lost or too short for an event.
 *
 * Above a rate user space takes the probes off for most of the time (config.decodes_ns says since when they are
 * there). What an engine did meanwhile is in no total: one event says from when to when.
 */
static __always_inline bool calls_unseen(struct wi_engine *e)
{
	struct wi_config *c = config_of();
	return c && e->last_ns < c->decodes_ns;
}

static __always_inline void send_unseen(struct wi_engine *e, struct wi_engine_key *key, struct wi_thread *t,
					u32 tid, u64 now)
{
	struct wi_gap *g = events.ringbuf_reserve(sizeof(*g));
	if (!g) {
		count_stat(WI_STAT_GAPS_LOST);
		return;
	}
	__builtin_memset(g, 0, sizeof(*g));
	g->header.type = WI_EV_GAP;
	g->header.target = t->target;
	g->pid = key->pid;
	g->tid = tid;
	g->context = key->context;
	g->start_ns = e->last_ns;
	g->end_ns = now;
	g->known = WI_GAP_UNSEEN;
	events.ringbuf_submit(g, BPF_RB_NO_WAKEUP);
}

int wi_llama_enter(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	count_stat(WI_STAT_DECODES);
	struct wi_thread *t = thread_of(tid);
	if (!t)
		return 0;
	struct wi_engine_key key = { .pid = id >> 32, .context = PT_REGS_PARM1(ctx) };
	struct wi_engine *e = engines.lookup(&key);
	t->engine = key.context;
	if (!e) {
		struct wi_engine *fresh = fresh_engine(t, tid, now);
		if (!fresh)
			return 0;
		batch_begins(ctx, fresh, key.context, key.pid, tid, now, 0);
		if (engines.update(&key, fresh))
			count_stat(WI_STAT_ENGINES_LOST);
		return 0;
	}
	if (calls_unseen(e)) {
		send_unseen(e, &key, t, tid, now);
		batch_begins(ctx, e, key.context, key.pid, tid, now, 0);
		e->busy = 1;
		e->driver = tid;
		e->last_ns = now;
		return 0;
	}
	if (e->busy) { /* a return was missed: longjmp, or the probe came in the middle of a call */
		e->driver = tid;
		return 0;
	}
	u64 idle = now > e->last_ns ? now - e->last_ns : 0;
	batch_begins(ctx, e, key.context, key.pid, tid, now, idle);
	struct wi_gap *g = end_gap(e, &key, t, tid, now, now);
	if (g)
		events.ringbuf_submit(g, BPF_RB_NO_WAKEUP);
	e->busy = 1;
	e->driver = tid;
	e->last_ns = now;
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
	if (calls_unseen(e)) { /* nobody saw where this call began */
		send_unseen(e, &key, t, tid, now);
		e->batch = 0;
		e->busy = 0;
		e->driver = tid;
		e->last_ns = now;
		remember_totals(e, t, now);
		return 0;
	}
	u64 took = now > e->last_ns ? now - e->last_ns : 0;
	e->busy_ns += took;
	batch_ends(e, (int)PT_REGS_RC(ctx), now, took);
	e->calls++;
	e->busy = 0;
	e->last_ns = now;
	remember_totals(e, t, now);
	return 0;
}
