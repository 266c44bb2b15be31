/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The CUDA driver's library as an engine, one per context: busy from the first launch after an idle time to the
 * end of the last synchronisation before the next launch. A call inside llama_decode is llama's: not counted
 * twice. A thread inside a synchronisation waits for the GPU, whether it sleeps there or spins.
 *
 * Which context a call is for, its thread has said before (cuCtxCreate, cuCtxSetCurrent). Where nobody heard it,
 * since the probes came later, all of a process is one engine.
 *
 * Launches are many. Above a rate user space takes their probes off (config.launches_ns says since when they
 * are there); a gap that begins meanwhile ends with the driver's sleep, since who sleeps launches nothing.
 */
#define WI_SYNC_WAITED_NS 50000 /* a synchronisation that found work; without any it takes a microsecond */
#define WI_HARDLY 8

struct wi_sync {
	u64 enter_ns;
	u64 calls;
	u64 context;
	u64 queued_ns; /* for how long the thread had waited for a CPU in its life */
};
BPF_TABLE("lru_hash", u32, struct wi_sync, syncs, 4096); /* by thread */

struct wi_current {
	u64 context;
	u64 below; /* what is current when this one has been popped; 0: not known */
	u32 pid;   /* a thread's number may be another's later */
	u32 pad;
};
BPF_TABLE("lru_hash", u32, struct wi_current, cuda_currents, 8192); /* by thread */
BPF_TABLE("lru_hash", u32, u64, cuda_made, 1024); /* by thread: where the context will be that it makes */

static __always_inline u64 cuda_context(u32 pid, u32 tid)
{
	struct wi_current *c = cuda_currents.lookup(&tid);
	return c && c->pid == pid ? c->context | WI_CONTEXT_CUDA : WI_CONTEXT_CUDA;
}

static __always_inline void cuda_makes_current(u32 pid, u32 tid, u64 context, bool push)
{
	struct wi_engine_key all = { .pid = pid, .context = WI_CONTEXT_CUDA };
	struct wi_current now = { .context = context, .pid = pid };
	struct wi_current *before = cuda_currents.lookup(&tid);
	if (push && before && before->pid == pid)
		now.below = before->context;
	if (!context)
		cuda_currents.delete(&tid);
	else if (!engines.lookup(&all)) /* else it began before anybody heard */
		cuda_currents.update(&tid, &now);
}

int wi_current_enter(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	count_stat(WI_STAT_LAUNCHES);
	if (thread_of((u32)id))
		cuda_makes_current(id >> 32, (u32)id, PT_REGS_PARM1(ctx), false);
	return 0;
}

int wi_pushed_enter(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	count_stat(WI_STAT_LAUNCHES);
	if (thread_of((u32)id))
		cuda_makes_current(id >> 32, (u32)id, PT_REGS_PARM1(ctx), true);
	return 0;
}

int wi_popped_enter(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	count_stat(WI_STAT_LAUNCHES);
	struct wi_current *c = cuda_currents.lookup(&tid);
	if (c && c->pid == id >> 32)
		cuda_makes_current(id >> 32, tid, c->below, false);
	return 0;
}

/* cuCtxCreate: current when it returns, and stored where the first argument says. */
int wi_created_enter(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	u64 at = PT_REGS_PARM1(ctx);
	if (thread_of(tid))
		cuda_made.update(&tid, &at);
	return 0;
}

int wi_created_return(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), context = 0;
	u32 tid = (u32)id;
	u64 *at = cuda_made.lookup(&tid);
	if (!at)
		return 0;
	if (!PT_REGS_RC(ctx) && !bpf_probe_read_user(&context, sizeof(context), (void *)*at) && context)
		cuda_makes_current(id >> 32, tid, context, true);
	cuda_made.delete(&tid);
	return 0;
}

static __always_inline struct wi_engine *cuda_engine(u32 pid, u64 context)
{
	struct wi_engine_key key = { .pid = pid, .context = context };
	return engines.lookup(&key);
}

static __always_inline void cuda_new(struct wi_thread *t, u32 pid, u32 tid, u64 context, u64 now)
{
	struct wi_engine_key key = { .pid = pid, .context = context };
	struct wi_engine *fresh = fresh_engine(t, tid, now);
	if (!fresh)
		return;
	fresh->calls = 1;
	if (engines.update(&key, fresh))
		count_stat(WI_STAT_ENGINES_LOST);
}

/* The gap that began at e->last_ns ended at `end`; `after` of the driver's GPU waiting came later than that. */
static __always_inline void cuda_gap(struct wi_engine *e, struct wi_engine_key *key, struct wi_thread *t, u32 tid,
				     u64 end, u64 now, u64 after, bool asleep)
{
	struct wi_gap *g = end_gap(e, key, t, tid, end, now);
	if (!g)
		return;
	if (asleep)
		g->ns[WI_RUNNING] = 0;
	g->ns[WI_GPU] = g->ns[WI_GPU] > after ? g->ns[WI_GPU] - after : 0;
	events.ringbuf_submit(g, BPF_RB_NO_WAKEUP);
}

/*
 * When the gap that began at e->last_ns ended if nobody saw what ended it: who sleeps launches nothing, and who
 * has run since may have. A shorter gap than counts is none.
 */
static __always_inline u64 cuda_unseen(struct wi_engine *e, struct wi_engine_key *key, struct wi_thread *t, u32 tid,
				       u64 at, u64 now)
{
	struct wi_config *c = config_of();
	u64 ran = total_of(t, WI_RUNNING, now) - e->seen[WI_RUNNING];
	u64 end = e->driver == tid && at > ran ? at - ran : 0;
	if (!c || end < e->last_ns || end - e->last_ns < c->gap_ns)
		return e->last_ns;
	cuda_gap(e, key, t, tid, end, now, now - at, true);
	return end;
}

static __always_inline int cuda_work(bool creates)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id, pid = id >> 32;
	count_stat(WI_STAT_LAUNCHES);
	struct wi_thread *t = thread_of(tid);
	if (!t || t->engine)
		return 0;
	struct wi_engine_key key = { .pid = pid, .context = cuda_context(pid, tid) };
	struct wi_engine *e = engines.lookup(&key);
	if (e && e->busy) {
		e->calls++;
		e->driver = tid;
		return 0;
	}
	u64 now = bpf_ktime_get_ns();
	if (!e) {
		if (creates) /* copies alone load a model: no engine at work yet */
			cuda_new(t, pid, tid, key.context, now);
		return 0;
	}
	struct wi_config *c = config_of();
	if (c && e->last_ns < c->launches_ns) { /* launches had no probes meanwhile */
		u64 end = cuda_unseen(e, &key, t, tid, now, now);
		if (now > end)
			e->busy_ns += now - end;
	} else {
		cuda_gap(e, &key, t, tid, now, now, 0, false);
	}
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

/*
 * The interval on the CPU so far was `state`; what follows is another. A uprobe may be preempted anywhere, and then
 * sched_switch counts what there is since last_ns and sets it: so that goes on first, and by additions that undo
 * nothing. Where the switch comes before them, last_ns ends up as far ahead as was counted twice, and the interval
 * after the switch is counted from there.
 */
static __always_inline void cut_running(struct wi_thread *t, u32 state, u64 now)
{
	write_begin(t);
	u64 last = t->last_ns;
	if (t->state == WI_RUNNING && now > last) {
		u64 ran = now - last;
		__sync_fetch_and_add(&t->last_ns, ran);
		__sync_fetch_and_add(&t->ran_ns, ran); /* what ran since then is what the scheduler has more */
		__sync_fetch_and_add(&t->ns[state], ran);
	}
}

static __always_inline u64 queued_ns(struct wi_thread *t)
{
	return t->ns[WI_RUNQUEUE] + t->ns[WI_THROTTLED];
}

static __always_inline int cuda_sync_enter(void)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	struct wi_thread *t = thread_of(tid);
	if (!t)
		return 0;
	u64 now = bpf_ktime_get_ns();
	u64 context = cuda_context(id >> 32, tid);
	struct wi_engine *e = cuda_engine(id >> 32, context);
	struct wi_sync sync = { .enter_ns = now, .calls = e ? e->calls : 0, .context = context, .queued_ns = queued_ns(t) };
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
	struct wi_engine_key key = { .pid = pid, .context = sync ? sync->context : WI_CONTEXT_CUDA };
	struct wi_engine *e = engines.lookup(&key);
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
	} else if (took < WI_SYNC_WAITED_NS + queued_ns(t) - sync->queued_ns) {
		return 0; /* there was nothing to wait for, but perhaps a CPU */
	} else {
		/* Another stream was busy until now, or nobody saw the launches. (What has been busy for so long hardly
		 * ends as soon as somebody waits for it: that was something else, and a short one.) */
		u64 end = e->last_ns;
		if (end < c->launches_ns || (enter > end && took < (enter - end) / WI_HARDLY))
			end = cuda_unseen(e, &key, t, tid, enter, now);
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
