/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Processes that nobody observes, but that discovery may want to look at: those that called exec or mapped a
 * GPU or model library since it looked last. A table of them and at most one wake-up per look: a host
 * that starts thousands of processes per second costs user space no more than one that starts one. The
 * short-lived have left the table again when it looks.
 */
BPF_TABLE("lru_hash", u32, u32, noticed, WI_MAX_NOTICED); /* pid -> unused */
BPF_TABLE("array", int, u32, notice, 1);                  /* enum wi_notice, set by user space */

static __always_inline bool noticing(void)
{
	int zero = 0;
	u32 *mode = notice.lookup(&zero);
	return mode && *mode != WI_NOTICE_OFF;
}

static __always_inline void notice_process(u32 pid)
{
	int zero = 0;
	u32 *mode = notice.lookup(&zero), one = 1;
	if (!mode || *mode == WI_NOTICE_OFF)
		return;
	noticed.update(&pid, &one);
	if (*mode != WI_NOTICE_ARMED)
		return;
	*mode = WI_NOTICE_SENT; /* two CPUs at once send two: harmless */
	struct wi_noticed *e = control.ringbuf_reserve(sizeof(*e));
	if (!e) {
		*mode = WI_NOTICE_ARMED; /* the next one tries again */
		return;
	}
	e->header.type = WI_EV_NOTICED;
	e->header.target = 0;
	control.ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void forget_noticed(u64 task)
{
	u32 pid = TASK(task, tgid), tid = TASK(task, pid);
	if (pid == tid && noticing())
		noticed.delete(&pid);
}

/* Whether a library is one that programs with a GPU or a model map, by the first eight bytes of its name as
 * name_of() returns them: little-endian. */
static __always_inline bool worth_noticing(u64 start)
{
	switch (start) {
	case 0x616d616c6c62696cULL: /* libllama */
	case 0x2e6164756362696cULL: /* libcuda. */
	case 0x722d61736862696cULL: /* libhsa-r|untime64 */
	case 0x6968646d6162696cULL: /* libamdhi|p64 */
	case 0x6f6c5f657a62696cULL: /* libze_lo|ader */
		return true;
	}
	return false;
}
