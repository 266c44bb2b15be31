/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a call of llama_decode computes: how many tokens, and where in the context they stand. From that,
 * where one inference ends and the next begins: a prompt begins one, unless it only continues the prompt
 * before it (long prompts come in several batches), and so does an idle time of 200 ms or a position that
 * goes back. A batch of several sequences (continuous batching) says nothing of that kind.
 */
struct wi_batch { /* llama_batch, as far as it is read */
	int n_tokens;
	int pad;
	u64 token;
	u64 embd;
	u64 pos;
	u64 n_seq_id;
	u64 seq_id;
	u64 logits;
};
#define WI_MAX_BATCH (1 << 24)

/* The second argument. The structure is too large for registers: System V passes it on the stack, above the
 * return address; AAPCS64 passes the address of a copy. */
static __always_inline u64 batch_address(struct pt_regs *ctx)
{
#ifdef CONFIG_X86_64
	return PT_REGS_SP(ctx) + 8;
#else
	return PT_REGS_PARM2(ctx);
#endif
}

static __always_inline void send_inference(struct wi_engine *e, u64 context, u32 pid, u32 tid)
{
	if (!e->run_start_ns || !e->run_end_ns)
		return;
	e->inferences++;
	struct wi_inference *i = events.ringbuf_reserve(sizeof(*i));
	if (!i) {
		count_stat(WI_STAT_INFERENCES_LOST);
		return;
	}
	i->header.type = WI_EV_INFERENCE;
	i->header.target = e->target;
	i->pid = pid;
	i->tid = tid;
	i->context = context;
	i->start_ns = e->run_start_ns;
	i->end_ns = e->run_end_ns;
	i->prompt_ns = e->run_prompt_ns;
	i->decode_ns = e->run_decode_ns;
	i->prompt_tokens = e->run_prompt_tokens;
	i->decode_tokens = e->run_decode_tokens;
	i->position = e->position;
	i->flags = e->flags;
	events.ringbuf_submit(i, BPF_RB_NO_WAKEUP);
}

/* A call begins, `idle` after the last one. */
static __always_inline void batch_begins(struct pt_regs *ctx, struct wi_engine *e, u64 context, u32 pid,
					 u32 tid, u64 now, u64 idle)
{
	struct wi_batch b = {};
	int first = -1, last = -1;
	if (bpf_probe_read_user(&b, sizeof(b), (void *)batch_address(ctx)))
		b.n_tokens = 0;
	u32 n = b.n_tokens > 0 && b.n_tokens <= WI_MAX_BATCH ? b.n_tokens : 0;
	if (n && b.pos) {
		if (bpf_probe_read_user(&first, sizeof(first), (void *)b.pos) ||
		    bpf_probe_read_user(&last, sizeof(last), (void *)(b.pos + (u64)(n - 1) * sizeof(int))) ||
		    first < 0 || last < 0 || first > WI_MAX_BATCH || last > WI_MAX_BATCH)
			first = last = -1;
	}
	u32 mixed = first >= 0 && (u32)(last - first) != n - 1;
	u32 prompt = n > 1 && !mixed;
	u32 back = first >= 0 && (u32)first < e->position;
	u32 next = first >= 0 && (u32)first != e->position;
	if (!e->run_start_ns || idle >= WI_INFERENCE_GAP_NS ||
	    (!mixed && (back || (prompt && (next || (e->flags & WI_ENGINE_DECODED)))))) {
		send_inference(e, context, pid, tid);
		e->run_start_ns = now;
		e->run_end_ns = 0;
		e->run_prompt_ns = 0;
		e->run_decode_ns = 0;
		e->run_prompt_tokens = 0;
		e->run_decode_tokens = 0;
	}
	e->flags = (e->flags & (WI_ENGINE_PARALLEL | WI_ENGINE_DECODED)) | (prompt ? WI_ENGINE_PROMPT : 0) |
		   (mixed ? WI_ENGINE_PARALLEL : 0);
	e->batch = n;
	e->position_before = e->position;
	if (last >= 0 && !mixed)
		e->position = last + 1;
	else if (last >= 0)
		e->position = last + 1 > e->position ? last + 1 : e->position;
	else
		e->position += n;
}

/* The call returned `result` (0: computed) after `took`. */
static __always_inline void batch_ends(struct wi_engine *e, int result, u64 now, u64 took)
{
	u32 prompt = e->flags & WI_ENGINE_PROMPT;
	u32 n = e->batch;
	e->batch = 0;
	if (result) {
		e->failed++;
		e->position = e->position_before;
		return;
	}
	e->flags &= ~(WI_ENGINE_PROMPT | WI_ENGINE_DECODED);
	if (prompt) {
		e->prompt_tokens += n;
		e->prompt_ns += took;
		e->run_prompt_tokens += n;
		e->run_prompt_ns += took;
	} else {
		e->flags |= WI_ENGINE_DECODED;
		e->decode_tokens += n;
		e->decode_ns += took;
		e->run_decode_tokens += n;
		e->run_decode_ns += took;
	}
	if (e->position > e->position_peak)
		e->position_peak = e->position;
	e->run_end_ns = now;
}
