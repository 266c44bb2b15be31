/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Maps and small helpers that every probe shares.
 *
 * The loader prepends the kernel's own types (from its BTF), the WI_* feature macros it probed, and
 * events.h. Programs load as tp_btf where they can, so a field of a task is one plain load: no helper
 * call, no fault. bcc would rewrite a member access into a bpf_probe_read call, so kernel pointers
 * travel as u64 and are read through FIELD(), which its rewriter leaves alone.
 */
#define WI_TICK_NS 10000000ULL /* the longest: HZ is 100 at least */
BPF_TABLE("hash", u32, struct wi_thread, threads, WI_MAX_THREADS);
BPF_TABLE("hash", u32, u32, processes, WI_MAX_PROCESSES); /* pid -> target, for the iterator */
BPF_TABLE("hash", struct wi_engine_key, struct wi_engine, engines, 1024);
BPF_TABLE("hash", struct wi_wait_key, struct wi_wait, waits, WI_MAX_WAITS);
BPF_TABLE("hash", u32, struct wi_range, gils, WI_MAX_PROCESSES);
BPF_TABLE("array", int, struct wi_config, config, 1);
BPF_TABLE("array", int, u64, stats, WI_STATS);
BPF_TABLE("array", int, u8, syscall_class, WI_SYSCALLS);
BPF_TABLE("percpu_array", int, struct wi_thread, scratch, 3); /* a wi_thread is larger than a BPF stack */
BPF_TABLE("array", int, u32, notes_wanted, 1); /* 1: user space was asked to attach wi_data_ready */
BPF_RINGBUF_OUTPUT(events, WI_EVENT_PAGES);
BPF_RINGBUF_OUTPUT(control, WI_CONTROL_PAGES);

/* Who fills which scratch record: uprobes and the iterator may be preempted in the middle. */
#define WI_SCRATCH_FORK 0
#define WI_SCRATCH_ITERATOR 1
#define WI_SCRATCH_ENGINE 2

#define FIELD(type, base, member) \
	(*(typeof(((struct type *)0)->member) *)((base) + offsetof(struct type, member)))
#define TASK(task, member) FIELD(task_struct, task, member)

/* Argument n of a tp_btf or iterator program, hidden from bcc's rewriter. */
#define ARG(ctx, n) ({ \
	u64 _arg; \
	asm volatile("%0 = *(u64 *)(%1 + %2)" : "=r"(_arg) : "r"(ctx), "i"((n) * 8)); \
	_arg; })

#define PROBE_READ(dst, src) bpf_probe_read_kernel(dst, sizeof(*(dst)), (void *)(src))

/*
 * The current task, where a task's saved registers are, and LOAD(), which reads through either. Helpers by
 * number: bcc's declarations want typed pointers, and its headers may predate the helper.
 */
#ifdef WI_TASK_PT_REGS
static u64 (*wi_current_task)(void) = (void *)158;
static u64 (*wi_task_pt_regs)(u64 task) = (void *)175;
#define LOAD(type, base, member) FIELD(type, base, member)
#else
/* Before 5.15 no helper tells, and what is found is a bare address, to be read by a call for each word. The
 * registers are at the top of the task's kernel stack; a vmalloc area counts its guard page as well. */
static u64 (*wi_current_task)(void) = (void *)35;
#define LOAD(type, base, member) ({ \
	typeof(((struct type *)0)->member) _value = 0; \
	PROBE_READ(&_value, (base) + offsetof(struct type, member)); \
	_value; })
static __always_inline u64 wi_task_pt_regs(u64 task)
{
	u64 size = 4 * PAGE_SIZE;
#ifdef WI_STACK_AREA
	u64 area = (u64)LOAD(task_struct, task, stack_vm_area);
	if (area)
		size = LOAD(vm_struct, area, size) - PAGE_SIZE;
#endif
	return (u64)LOAD(task_struct, task, stack) + size - sizeof(struct pt_regs);
}
#endif

/*
 * Most switches and wakings of a host concern no target, so what costs is finding that out: a byte for each
 * TID says whether `threads` may hold it. A byte too many set costs one look-up; user space, which removes
 * threads of its own, never clears one. TIDs beyond the table (pid_max was raised since) are always looked up.
 */
#define WI_TIDS_IN_PAGE 4096
struct wi_tids {
	u8 known[WI_TIDS_IN_PAGE];
};
BPF_TABLE("array", int, struct wi_tids, tids, WI_TID_PAGES);

static __always_inline u8 *tid_byte(u32 tid)
{
	int page = tid / WI_TIDS_IN_PAGE;
	struct wi_tids *found = tids.lookup(&page);
	return found ? &found->known[tid % WI_TIDS_IN_PAGE] : NULL;
}

static __always_inline bool may_be_tracked(u32 tid)
{
	u8 *known = tid_byte(tid);
	return !known || *known;
}

static __always_inline struct wi_thread *thread_of(u32 tid)
{
	return may_be_tracked(tid) ? threads.lookup(&tid) : NULL;
}

static __always_inline void know_tid(u32 tid, u8 known)
{
	u8 *byte = tid_byte(tid);
	if (byte)
		*byte = known;
}

static __always_inline void count_stat(int which)
{
	u64 *value = stats.lookup(&which);
	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline struct wi_config *config_of(void)
{
	int zero = 0;
	return config.lookup(&zero);
}

/* A reader copies front to back: it sees `done` first and `begun` last, the writer writes them the
 * other way round, so equal values mean that no writer started before the copy was over. */
static __always_inline void write_begin(struct wi_thread *t)
{
	t->begun++;
	barrier();
}

static __always_inline void write_end(struct wi_thread *t)
{
	barrier();
	t->done = t->begun;
}
