/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The CUDA driver's library as an engine, one per process: busy from the first launch after an idle time to the
 * end of the last synchronisation before the next launch. A call inside llama_decode is llama's: not counted
 * twice. A thread inside a synchronisation waits for the GPU, whether it sleeps there or spins.
 *
 * Launches are many. Above a rate user space takes their probes off (config.launches_ns says since when they
 * are there); a gap that begins meanwhile ends with the driver's sleep, since who sleeps launches nothing.
 */
#define WI_SYNC_WAITED_NS 50000 /* a synchronisation that found work; without any it takes a microsecond */

struct wi_sync {
	u64 enter_ns;
	u64 calls;
};
BPF_TABLE("lru_hash", u32, struct wi_sync, syncs, 4096); /* by thread */

static __always_inline struct wi_engine *cuda_engine(u32 pid)
{
	struct wi_engine_key key = { .pid = pid, .context = WI_CONTEXT_CUDA };
	return engines.lookup(&key);
}

static __always_inline void cuda_new(struct wi_thread *t, u32 pid, u32 tid, u64 now)
{
	struct wi_engine_key key = { .pid = pid, .context = WI_CONTEXT_CUDA };
	struct wi_engine *fresh = fresh_engine(t, tid, now);
	if (!fresh)
		return;
	fresh->calls = 1;
	if (engines.update(&key, fresh))
		count_stat(WI_STAT_ENGINES_LOST);
}

/* The gap that began at e->last_ns ended at `end`; `after` of the driver's GPU waiting came later than that. */
static __always_inline void cuda_gap(struct wi_engine *e, struct wi_thread *t, u32 pid, u32 tid, u64 end, u64 now,
				     u64 after, bool asleep)
{
	struct wi_engine_key key = { .pid = pid, .context = WI_CONTEXT_CUDA };
	struct wi_gap *g = end_gap(e, &key, t, tid, end, now);
	if (!g)
		return;
	if (asleep)
		g->ns[WI_RUNNING] = 0;
	g->ns[WI_GPU] = g->ns[WI_GPU] > after ? g->ns[WI_GPU] - after : 0;
	events.ringbuf_submit(g, BPF_RB_NO_WAKEUP);
}

static __always_inline int cuda_work(bool creates)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id, pid = id >> 32;
	count_stat(WI_STAT_LAUNCHES);
	struct wi_thread *t = thread_of(tid);
	if (!t || t->engine)
		return 0;
	struct wi_engine *e = cuda_engine(pid);
	if (e && e->busy) {
		e->calls++;
		e->driver = tid;
		return 0;
	}
	u64 now = bpf_ktime_get_ns();
	if (!e) {
		if (creates) /* copies alone load a model: no engine at work yet */
			cuda_new(t, pid, tid, now);
		return 0;
	}
	cuda_gap(e, t, pid, tid, now, now, 0, false);
	e->calls++;
	e->busy = 1;
	e->driver = tid;
	e->last_ns = now;
	return 0;
}

int wi_launch_enter(struct pt_regs *ctx)
{
	return cuda_work(true);
}

int wi_copy_enter(struct pt_regs *ctx)
{
	return cuda_work(false);
}

/* The interval on the CPU so far was `state`; what follows is another. */
static __always_inline void cut_running(struct wi_thread *t, u32 state, u64 now)
{
	write_begin(t);
	if (t->state == WI_RUNNING && now > t->last_ns) {
		t->ns[state] += now - t->last_ns;
		t->last_ns = now;
	}
}

static __always_inline int cuda_sync_enter(void)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	struct wi_thread *t = thread_of(tid);
	if (!t)
		return 0;
	u64 now = bpf_ktime_get_ns();
	struct wi_engine *e = cuda_engine(id >> 32);
	struct wi_sync sync = { .enter_ns = now, .calls = e ? e->calls : 0 };
	syncs.update(&tid, &sync);
	cut_running(t, t->flags & WI_THREAD_GPU ? WI_GPU : WI_RUNNING, now);
	t->flags |= WI_THREAD_GPU;
	write_end(t);
	return 0;
}

static __always_inline int cuda_sync_return(void)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id, pid = id >> 32;
	struct wi_thread *t = thread_of(tid);
	if (!t || !(t->flags & WI_THREAD_GPU))
		return 0;
	u64 now = bpf_ktime_get_ns();
	cut_running(t, WI_GPU, now);
	t->flags &= ~WI_THREAD_GPU;
	write_end(t);
	struct wi_sync *sync = syncs.lookup(&tid);
	struct wi_engine *e = cuda_engine(pid);
	struct wi_config *c = config_of();
	if (!sync || !e || !c || t->engine)
		return 0;
	u64 enter = sync->enter_ns, took = now > enter ? now - enter : 0;
	if (e->busy) {
		if (e->calls != sync->calls) /* another thread went on launching */
			return 0;
		if (now > e->last_ns)
			e->busy_ns += now - e->last_ns;
		e->busy = 0;
	} else if (took < WI_SYNC_WAITED_NS) {
		return 0; /* there was nothing to wait for */
	} else if (e->last_ns >= c->launches_ns) { /* no launch since: another stream was busy until now */
		if (now > e->last_ns)
			e->busy_ns += now - e->last_ns;
	} else { /* nobody saw its launches */
		u64 ran = total_of(t, WI_RUNNING, now) - e->seen[WI_RUNNING];
		u64 end = e->driver == tid && enter > ran ? enter - ran : 0;
		if (end > e->last_ns && end - e->last_ns >= c->gap_ns)
			cuda_gap(e, t, pid, tid, end, now, took, true);
		else
			end = e->last_ns;
		if (now > end)
			e->busy_ns += now - end;
	}
	e->driver = tid;
	e->last_ns = now;
	remember_totals(e, t, now);
	return 0;
}

int wi_sync_enter(struct pt_regs *ctx)
{
	return cuda_sync_enter();
}

int wi_sync_return(struct pt_regs *ctx)
{
	return cuda_sync_return();
}

/* A copy that returns when it is done: work and synchronisation in one. */
int wi_transfer_enter(struct pt_regs *ctx)
{
	cuda_work(false);
	return cuda_sync_enter();
}

int wi_transfer_return(struct pt_regs *ctx)
{
	return cuda_sync_return();
}
