/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The single truth of what the kernel side stores and emits.
 *
 * structs.py mirrors this file by hand; tests/unit/probes compile an offset dump of it and compare.
 * Numbers and fields are append-only: recordings outlive releases. Everything is naturally aligned,
 * padding is explicit, there are no bitfields. Times are nanoseconds on CLOCK_MONOTONIC.
 */
#ifndef WHYIDLE_EVENTS_H
#define WHYIDLE_EVENTS_H

/* Where a thread's time goes, as far as the kernel can tell; user space maps these to states. */
enum wi_state {
	WI_RUNNING = 0,
	WI_RUNQUEUE = 1,     /* runnable, waiting for a CPU */
	WI_OTHER = 2,        /* asleep in a syscall that has no class below */
	WI_TCP = 3,          /* connected, connecting or writing */
	WI_UDP = 4,
	WI_SOCKET = 5,       /* netlink, packet, raw, vsock, ... */
	WI_UNIX = 6,
	WI_PIPE = 7,
	WI_FILE = 8,         /* regular file or directory */
	WI_DEVICE = 9,       /* character or block device: terminals, /dev/nvidia* */
	WI_EPOLL = 10,
	WI_POLL = 11,        /* poll or select on several descriptors, or on one that is no socket or pipe */
	WI_FUTEX = 12,
	WI_SLEEP = 13,       /* nanosleep, timerfd, poll or select on nothing */
	WI_CHILD = 14,       /* wait4, waitid, pidfd, vfork */
	WI_EVENTFD = 15,
	WI_SIGNAL = 16,      /* pause, sigsuspend, sigtimedwait, signalfd */
	WI_IO_URING = 17,
	WI_SYSV_IPC = 18,    /* semop, msgrcv, mq_* */
	WI_FAULT = 19,       /* asleep outside any syscall: a page fault */
	WI_MEMORY = 20,      /* asleep in mmap, munmap, madvise: the address-space lock, reclaim */
	WI_STOPPED = 21,     /* SIGSTOP, ptrace, freezer */
	WI_LISTEN = 22,      /* accept on a listening socket */
	WI_ANON = 23,        /* another anonymous inode: inotify, userfaultfd, ... */
	WI_DISK = 24,        /* uninterruptible and counted as I/O wait, in whatever syscall */
	WI_UNKNOWN = 25,     /* found asleep when tracking began, and not resolvable */
	WI_GIL = 26,         /* a futex inside the interpreter's own state */
	WI_THROTTLED = 27,   /* its cgroup has used up its CPU bandwidth */
	WI_GPU = 28,         /* inside a CUDA synchronisation, asleep or on a CPU */
	WI_STATES = 32,      /* size of the arrays; the rest is room to append */
};

/* What a syscall's wait is about; the loader fills syscall_class[nr] for the machine's architecture. */
enum wi_class {
	WI_CLASS_OTHER = 0,
	WI_CLASS_FD = 1,     /* argument 0 is the descriptor */
	WI_CLASS_POLL = 2,
	WI_CLASS_SELECT = 3,
	WI_CLASS_EPOLL = 4,
	WI_CLASS_FUTEX = 5,
	WI_CLASS_SLEEP = 6,
	WI_CLASS_CHILD = 7,
	WI_CLASS_SIGNAL = 8,
	WI_CLASS_IO_URING = 9,
	WI_CLASS_SYSV_IPC = 10,
	WI_CLASS_MEMORY = 11,
};
#define WI_SYSCALLS 512

enum wi_event {
	WI_EV_SLICE = 1,
	WI_EV_THREAD_EXIT = 2,
	WI_EV_FORK = 3,
	WI_EV_EXEC = 4,
	WI_EV_EXIT = 5,
	WI_EV_LIBRARY = 6,
	WI_EV_GAP = 7,
	WI_EV_LOOKUP = 8,
	WI_EV_FIRST_WRITE = 9, /* never recorded: the name in it is */
	WI_EV_INFERENCE = 16,
	WI_EV_CONTEXT = 17,
	WI_EV_START = 24,
	WI_EV_NOTICED = 64,  /* for discovery alone: never recorded */
	WI_EV_NOTES_WANTED = 65, /* a header and no more, for the daemon's kernel side: never recorded */
};

enum wi_stat {
	WI_STAT_SLICES = 0,        /* slices emitted */
	WI_STAT_SLICES_LOST = 1,   /* slices the ring had no room for (their time is still in the totals) */
	WI_STAT_CONTROL_LOST = 2,  /* fork, exec, exit, library events the control ring had no room for */
	WI_STAT_THREADS_LOST = 3,  /* threads the map had no room for: their time is lost */
	WI_STAT_WAITS_LOST = 4,    /* short waits whose peer the map had no room for */
	WI_STAT_EXITS_KEPT = 5,    /* thread totals kept in the map because the ring was full */
	WI_STAT_ENGINES_LOST = 6,
	WI_STAT_GAPS_LOST = 7,
	WI_STAT_ITER_NEW = 8,      /* processes and threads the last iterator runs added */
	WI_STAT_NAMES_LOST = 9,    /* first writes the ring had no room for */
	WI_STAT_SWITCHES_HIDDEN = 10, /* switches that the kernel did not show; what they ended is known all the same */
	WI_STAT_INFERENCES_LOST = 12, /* inferences the ring had no room for (their tokens are in the totals) */
	WI_STAT_LAUNCHES = 14,     /* CUDA launches and copies that a probe saw, of whatever process */
	WI_STAT_DECODES = 15,      /* calls of llama_decode that a probe saw, of whatever process */
	WI_STATS = 16,
};

#define WI_COMM 16
#define WI_PATH 64

struct wi_peer {
	unsigned char local[16];   /* IPv4 in the first four bytes */
	unsigned char remote[16];
	unsigned short local_port; /* host order */
	unsigned short remote_port;
	unsigned char family;      /* AF_INET, AF_INET6, AF_UNIX, 0: no socket */
	unsigned char type;        /* SOCK_STREAM, SOCK_DGRAM, ... */
	unsigned char tcp_state;   /* when the wait began */
	unsigned char tcp_end;     /* what it became and ended the wait by that; 0: it did not change */
};

struct wi_header {
	unsigned int type;         /* enum wi_event */
	unsigned int target;
};

/* One interval off the CPU: blocked, then runnable. blocked_ns is 0 for a preemption; several short ones are told as
 * one, as long as all of them (slice.h). */
struct wi_slice {
	struct wi_header header;
	unsigned int pid;          /* process (tgid) */
	unsigned int tid;
	unsigned long long start_ns;
	unsigned long long blocked_ns;
	unsigned long long runqueue_ns;
	unsigned long long arg;    /* syscall argument 0: futex address, epoll descriptor, ... */
	unsigned long long inode;  /* of the descriptor waited on; 0: none */
	unsigned int waker_pid;    /* 0: an interrupt or the idle task woke it */
	unsigned int waker_tid;
	unsigned short state;      /* enum wi_state */
	unsigned short syscall;    /* 0xffff: none */
	int fd;                    /* -1: none */
	struct wi_peer peer;
	unsigned long long peer_inode; /* of the other end of a Unix socket; 0: none */
	unsigned short waker_syscall; /* what the waker was in; 0xffff: none, an interrupt met it by chance */
	unsigned char pad[6];
};

/* Everything known of one thread. The map's value, and the payload of WI_EV_THREAD_EXIT. */
struct wi_thread {
	unsigned long long done;   /* seqlock: written last; a copy is whole when done == begun */
	unsigned int pid;
	unsigned int tid;
	unsigned int target;
	unsigned int flags;        /* WI_THREAD_* */
	unsigned long long first_ns;
	unsigned long long last_ns; /* when the current state began */
	unsigned long long wake_ns; /* first waking since then; before last_ns: none */
	unsigned long long end_ns;  /* exit; 0: alive */
	unsigned long long arg;
	unsigned long long inode;
	unsigned long long engine;  /* context it is inside of; 0: none */
	unsigned int waker_pid;
	unsigned int waker_tid;
	unsigned short state;
	unsigned short syscall;
	int fd;
	struct wi_peer peer;
	char comm[WI_COMM];
	unsigned long long ns[WI_STATES];
	unsigned int count[WI_STATES];
	unsigned int clock_samples;   /* how often it was found on a CPU, while a clock asked */
	unsigned int polling_samples; /* and in a poll with a time-out of zero */
	unsigned long long peer_inode;
	unsigned short waker_syscall;
	unsigned char pad[6];
	unsigned long long ran_ns; /* by the scheduler's own account, when it last left a CPU */
	unsigned long long queue;    /* the kernel's own, where a wait for a CPU began; for throttled.h alone */
	unsigned long long queue_ns; /* for how long that had been throttled by then */
	unsigned long long turns_start_ns; /* waits for a CPU that are not told yet (slice.h) began then, */
	unsigned long long turns_ns;       /* and lasted so long in all; 0: there are none */
	unsigned long long begun;  /* seqlock: written first */
};
#define WI_THREAD_PREEXISTING 1 /* was there when tracking began */
#define WI_THREAD_LEADER 2
#define WI_THREAD_GPU 4 /* inside a CUDA synchronisation */

struct wi_thread_exit {
	struct wi_header header;
	struct wi_thread thread;
};

struct wi_fork {
	struct wi_header header;
	unsigned long long ns;
	unsigned int parent;
	unsigned int pid;
	char comm[WI_COMM];
};

/* A thread began, the first of a process too: who made it is who it has its work from. */
struct wi_start {
	struct wi_header header;
	unsigned long long ns;
	unsigned int pid;
	unsigned int tid;
	unsigned int creator_pid;
	unsigned int creator_tid;
};

struct wi_exec {
	struct wi_header header;
	unsigned long long ns;
	unsigned int pid;
	unsigned int old_tid;      /* differs from pid when a thread other than the leader called exec */
	char comm[WI_COMM];
	char path[WI_PATH];
	unsigned long long rss_peak_pages; /* of the image that is gone */
};

#define WI_HOST 96
#define WI_ADDRESSES 4

/* One call of getaddrinfo, with the first addresses it found. */
struct wi_lookup {
	struct wi_header header;
	unsigned long long start_ns;
	unsigned long long end_ns;
	unsigned int pid;
	unsigned int tid;
	int status;                /* getaddrinfo's result; 0: found */
	unsigned int count;        /* of addresses */
	unsigned int families[WI_ADDRESSES];
	unsigned char addresses[WI_ADDRESSES * 16];
	char host[WI_HOST];
};

#define WI_FIRST_WRITE 2048  /* of a ClientHello; with post-quantum key shares it has 1700 bytes */
#define WI_FIRST_REQUEST 512 /* of an HTTP request: its line, and Host, which comes first */

/* The beginning of what a client wrote first on a TCP connection, if that is a ClientHello or a request. */
struct wi_first_write {
	struct wi_header header;
	unsigned long long ns;
	unsigned int pid;
	unsigned int tid;
	struct wi_peer peer;
	unsigned int length;       /* of data */
	unsigned int pad;
	unsigned char data[WI_FIRST_WRITE];
};

struct wi_exit {
	struct wi_header header;
	unsigned long long ns;
	unsigned int pid;
	int code;                  /* as in wait(2) */
	unsigned long long rss_peak_pages;
	char comm[WI_COMM];
};

struct wi_library {
	struct wi_header header;
	unsigned long long ns;
	unsigned int pid;
	unsigned int tid;
	char name[32];
};

/* Set in the address of a CUDA context, which is even, as that of a llama.cpp context is. Alone: all that a process
 * does through libcuda, where contexts are not known. */
#define WI_CONTEXT_CUDA 1
/* A model context, by process and address. */
struct wi_engine_key {
	unsigned int pid;
	unsigned int pad;
	unsigned long long context;
};

struct wi_engine {
	unsigned int target;
	unsigned int driver;       /* thread of the last call */
	unsigned int busy;         /* inside a call now */
	unsigned int pad;
	unsigned long long first_ns;
	unsigned long long last_ns; /* when the current busy or idle interval began */
	unsigned long long busy_ns; /* of finished calls */
	unsigned long long idle_ns; /* of finished gaps */
	unsigned long long calls;
	unsigned long long gaps;
	unsigned long long short_ns;    /* idle in gaps below the threshold, which are not emitted */
	unsigned long long seen[WI_STATES]; /* the driver's totals when the last call returned */
	/* Of finished calls. A batch of more than one token of one sequence is prompt, any other is decoding. */
	unsigned long long prompt_tokens;
	unsigned long long decode_tokens;
	unsigned long long prompt_ns;
	unsigned long long decode_ns;
	unsigned long long inferences;      /* finished ones, which were sent as events */
	unsigned long long failed;          /* calls that returned an error: their tokens do not count */
	/* The inference that goes on, or that nothing has followed yet. */
	unsigned long long run_start_ns;    /* 0: none */
	unsigned long long run_end_ns;      /* when its last call returned; 0: none has */
	unsigned long long run_prompt_ns;
	unsigned long long run_decode_ns;
	unsigned int run_prompt_tokens;
	unsigned int run_decode_tokens;
	unsigned int position;              /* tokens of the longest sequence after the current call */
	unsigned int position_before;       /* and before it */
	unsigned int position_peak;
	unsigned int batch;                 /* tokens of the current call */
	unsigned int flags;                 /* WI_ENGINE_* */
	unsigned int pad2;
};
#define WI_ENGINE_DECODED 1  /* the last call was no prompt */
#define WI_ENGINE_PROMPT 2   /* the current call is one */
#define WI_ENGINE_PARALLEL 4 /* a batch held several sequences: where an inference ends is a guess */

/* A run of calls between a prompt (or an idle time of WI_INFERENCE_GAP_NS) and the next. */
#define WI_INFERENCE_GAP_NS 200000000ULL
struct wi_inference {
	struct wi_header header;
	unsigned int pid;
	unsigned int tid;
	unsigned long long context;
	unsigned long long start_ns;
	unsigned long long end_ns;
	unsigned long long prompt_ns;
	unsigned long long decode_ns;
	unsigned int prompt_tokens;
	unsigned int decode_tokens;
	unsigned int position;     /* tokens of the longest sequence at its end */
	unsigned int flags;        /* WI_ENGINE_* */
};

#define WI_PARAMETERS 160
/* A model context was made; parameters are the first bytes of llama_context_params, whatever its version. */
struct wi_context {
	struct wi_header header;
	unsigned long long ns;
	unsigned int pid;
	unsigned int tid;
	unsigned long long context;
	unsigned long long model;
	unsigned char parameters[WI_PARAMETERS];
};

#define WI_GAP_KNOWN 1  /* ns[] holds: the same thread drove before and after */
#define WI_GAP_UNSEEN 2 /* calls had no probes: how much of it was idle, slices must say; in no total */
/* An idle interval that has ended, with where the driver thread spent it. */
struct wi_gap {
	struct wi_header header;
	unsigned int pid;
	unsigned int tid;          /* the driver: the thread that ended the gap */
	unsigned long long context;
	unsigned long long start_ns;
	unsigned long long end_ns;
	unsigned int known;        /* WI_GAP_* */
	unsigned int pad;
	unsigned long long ns[WI_STATES];
};

/* Waits below the slice threshold, and slices the ring lost, summed by what was waited for.
 * User space drains the map, so the values are deltas. */
struct wi_wait_key {
	unsigned int pid;
	unsigned int tid;
	unsigned char remote[16];
	unsigned short remote_port;
	unsigned short state;
	unsigned char family;
	unsigned char pad[3];
};

struct wi_wait {
	unsigned long long ns;
	unsigned long long count;
	unsigned long long longest_ns;
	unsigned int target;
	unsigned int pad;
};

/* Where an interpreter keeps its own state: a futex in it is the GIL. Filled by user space. */
struct wi_range {
	unsigned long long start;
	unsigned long long end;
};

/* Processes that nobody observes have called exec or mapped an engine's library: look at `noticed`. */
struct wi_noticed {
	struct wi_header header;
};

enum wi_notice {
	WI_NOTICE_OFF = 0,
	WI_NOTICE_ARMED = 1,
	WI_NOTICE_SENT = 2, /* user space was told, and has not looked yet */
};

struct wi_config {
	unsigned long long slice_ns;   /* an interval this long becomes an event */
	unsigned long long gap_ns;     /* an engine's idle interval this long becomes an event */
	unsigned long long launches_ns; /* since when CUDA launches have probes; all ones: they have none */
	unsigned long long decodes_ns;  /* since when llama_decode has probes, without a break */
	unsigned long long resting;     /* user space looks rarely: a new program is to wake it */
};

#endif
