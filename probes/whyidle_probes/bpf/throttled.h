/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which part of a wait for a CPU is due to a cgroup's limit on CPU bandwidth. No tracepoint tells.
 *
 * Since 6.18 the kernel throttles single tasks, and a task that leaves its CPU for that says so. Before, it
 * throttles the group's run queue of one CPU with all that stands in it. Who used up the quota leaves a queue
 * that is throttled by then. Who stood in it already, or was woken into it, does not leave a CPU; but the queue
 * sums for how long it (or a group above) was throttled, so the sum is noted when a wait begins and compared
 * when it ends. A thread that went to another CPU meanwhile has no such sum: its wait stays run-queue wait.
 */
#define WI_QUEUE_HELD (~0ULL) /* instead of a sum: the queue was throttled when the wait began */

#ifdef WI_QUEUE_THROTTLED
static __always_inline u64 queue_of(u64 task)
{
	return (u64)TASK(task, se.cfs_rq);
}

static __always_inline bool throttled(u64 task)
{
	u64 queue = queue_of(task);
	return queue && FIELD(cfs_rq, queue, throttle_count);
}

/* The thread is in its queue from now on, and waits. */
static __always_inline void note_queue(struct wi_thread *t, u64 task)
{
	u64 queue = queue_of(task);
	t->queue = queue;
	if (queue)
		t->queue_ns = FIELD(cfs_rq, queue, throttle_count) ? WI_QUEUE_HELD
								   : FIELD(cfs_rq, queue, WI_QUEUE_THROTTLED);
}

/* Of a wait that is over. The kernel's sum is on a clock that may run a little slower than ours, never faster. */
static __always_inline u64 throttled_ns(struct wi_thread *t, u64 task, u64 waited)
{
	u64 queue = queue_of(task);
	if (!queue || t->queue != queue)
		return 0;
	if (t->queue_ns == WI_QUEUE_HELD)
		return waited;
	u64 ns = FIELD(cfs_rq, queue, WI_QUEUE_THROTTLED) - t->queue_ns;
	return ns < waited ? ns : waited;
}

/* sched_waking comes before the kernel has chosen a CPU, sched_wakeup when the thread is in its queue. */
int wi_sched_wakeup(u64 *ctx)
{
	u64 task = ARG(ctx, 0);
	struct wi_thread *t = thread_of(TASK(task, pid));
	if (t && t->state > WI_RUNQUEUE)
		note_queue(t, task);
	return 0;
}
#else
static __always_inline bool throttled(u64 task)
{
#ifdef WI_TASK_THROTTLED
	return TASK(task, throttled);
#else
	return false;
#endif
}

static __always_inline void note_queue(struct wi_thread *t, u64 task) {}

static __always_inline u64 throttled_ns(struct wi_thread *t, u64 task, u64 waited)
{
	return 0;
}
#endif
