/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What every engine shares: it begins, and a gap of it ends. */

static __always_inline u64 total_of(struct wi_thread *t, int state, u64 now)
{
	u64 ns = t->ns[state];
	if (state == WI_RUNNING && now > t->last_ns) /* it runs right now: it is the caller */
		ns += now - t->last_ns;
	return ns;
}

/* A zeroed engine that this thread drives, busy since `now`; not in the map yet. */
static __always_inline struct wi_engine *fresh_engine(struct wi_thread *t, u32 tid, u64 now)
{
	int slot = WI_SCRATCH_ENGINE;
	struct wi_thread *zero = scratch.lookup(&slot); /* as zeroed memory large enough */
	if (!zero)
		return NULL;
	__builtin_memset(zero, 0, sizeof(struct wi_engine));
	struct wi_engine *e = (struct wi_engine *)zero;
	e->target = t->target;
	e->driver = tid;
	e->busy = 1;
	e->first_ns = now;
	e->last_ns = now;
	return e;
}

static __always_inline void remember_totals(struct wi_engine *e, struct wi_thread *t, u64 now)
{
#pragma unroll
	for (int i = 0; i < WI_STATES; i++)
		e->seen[i] = total_of(t, i, now);
}

/*
 * Count the gap since e->last_ns that ended at `end`. Returns its event if it is long enough for one, with what
 * the thread did since the last call began to end, to be submitted; else NULL.
 */
static __always_inline struct wi_gap *end_gap(struct wi_engine *e, struct wi_engine_key *key, struct wi_thread *t,
					      u32 tid, u64 end, u64 now)
{
	u64 start = e->last_ns;
	u64 idle = end > start ? end - start : 0;
	e->idle_ns += idle;
	e->gaps++;
	struct wi_config *c = config_of();
	if (!c || idle < c->gap_ns) {
		e->short_ns += idle;
		return NULL;
	}
	struct wi_gap *g = events.ringbuf_reserve(sizeof(*g));
	if (!g) {
		count_stat(WI_STAT_GAPS_LOST);
		return NULL;
	}
	g->header.type = WI_EV_GAP;
	g->header.target = t->target;
	g->pid = key->pid;
	g->tid = tid;
	g->context = key->context;
	g->start_ns = start;
	g->end_ns = end;
	g->known = e->driver == tid ? WI_GAP_KNOWN : 0;
	g->pad = 0;
#pragma unroll
	for (int i = 0; i < WI_STATES; i++)
		g->ns[i] = total_of(t, i, now) - e->seen[i];
	return g;
}
