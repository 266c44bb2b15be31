/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A process maps a library that holds an engine: tell user space at once, so that its uprobes are there
 * before the first call. vm_unmapped_area fires when mmap looks for an address, which the dynamic linker
 * asks for once per library; the file is then still only in the syscall's arguments.
 */
int wi_mapped(u64 *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	struct wi_thread *t = thread_of(tid);
	if (!t && !noticing())
		return 0;
	u64 task = wi_current_task();
	u64 regs = wi_task_pt_regs(task);
	if (LOAD(pt_regs, regs, orig_ax) != WI_NR_MMAP)
		return 0;
	u64 file = file_of(task, (int)LOAD(pt_regs, regs, r8)), start = 0;
	if (!file)
		return 0;
	u64 name = name_of(file, &start);
	if (!t) {
		if (worth_noticing(start))
			notice_process(id >> 32);
		return 0;
	}
	if (start != 0x616d616c6c62696cULL && start != 0x2e6164756362696cULL) /* "libllama", "libcuda.", little-endian */
		return 0;
	struct wi_library *e = control.ringbuf_reserve(sizeof(*e));
	if (!e) {
		count_stat(WI_STAT_CONTROL_LOST);
		return 0;
	}
	e->header.type = WI_EV_LIBRARY;
	e->header.target = t->target;
	e->ns = bpf_ktime_get_ns();
	e->pid = id >> 32;
	e->tid = tid;
	bpf_probe_read_kernel_str(e->name, sizeof(e->name), (void *)name);
	control.ringbuf_submit(e, BPF_RB_FORCE_WAKEUP);
	return 0;
}
