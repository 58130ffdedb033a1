/* What is in the kernel's maps?
 *
 *   address ──▶ what is known of it ┬ its subject classes, if a policy isolates it
 *                                   └ its classes as a peer, if it is a pod's
 *   (subject, peer, port) ──▶ verdict
 *
 * The same as layout.rs, byte for byte.
 *
 * There are two copies of every table that policies fill. `control` says which is in force. Whoever
 * changes the tables writes the copy that is not, turns `control`, and writes the other. A packet
 * reads `control` before and after its lookups: if it was turned meanwhile, what it read may be of
 * two minds and it looks again. So no packet sees half a change, and nobody waits for anybody.
 */
#pragma once

#include "kernel.h"

#define OPEN 0xffffffff     /* a direction that nothing isolates */
#define UNLISTED 0xfffffffe /* the same, unless this node's pods get their addresses from there */
#define STRANGER 0x0ffffffd /* instead of a class: such an address that nobody knows */
#define NO_CLASS 0          /* of a peer: no row names it */
#define UNKNOWN 0xffffffff  /* instead of a peer's class: blocks may name it */
#define PEER_ANY 0xffffffff
#define NO_RULE 0xffffffff
#define RETRIES 8

/* Of entries for ports: 0 any port, 1 to 16 ranges by the length of their prefix, 17 single ports. */
#define LENGTH_ANY 0
#define LENGTH_ONE 17

/* A subject class, and which rows it has. */
#define CLASS 0x0fffffff
#define HAS_OWN (1U << 28)
#define HAS_GROUP (1U << 29)
#define HAS_NET (1U << 30)
#define HAS_ANY (1U << 31)

/* Flags of the tables in force, in the upper half of the word of `control`. */
#define HAS_BLOCKS4 (1ULL << 32)
#define HAS_BLOCKS6 (1ULL << 33)
/* How many pod ranges there are of each family. */
#define POD_RANGES4(word) ((__u32)((word) >> 34) & 15)
#define POD_RANGES6(word) ((__u32)((word) >> 38) & 15)
#define HAS_POD_RANGES(word) ((word) >> 34 & 255)
#define POD_RANGES 8

/* Of an address. One lookup answers for both ends of a connection. */
struct known {
	__u32 egress; /* class and flags; OPEN, UNLISTED: not isolated */
	__u32 ingress;
	__u32 own; /* UNKNOWN: no pod's */
	__u32 group;
};

struct address4 {
	__u32 word[1];
};

struct address6 {
	__u32 word[4];
};

struct block4 {
	__u32 length;
	__u32 address;
};

struct block6 {
	__u32 length;
	__u32 address[4];
};

struct row_key {
	__u32 word[2]; /* subject, peer */
};

struct verdict {
	__u32 allow; /* 0: none, 1: denied, 2: allowed */
	__u32 rule;
};

/* A row of single ports alone has none. */
struct row {
	__u32 lengths; /* which prefix lengths of ports the row has, but for single ones, as bits */
	struct verdict otherwise;
};

struct port_key {
	__u32 word[3]; /* subject, peer; see PORT_WORD */
};

/* A port in host order, only the prefix's bits. */
#define PORT_WORD(port, protocol, length) ((__u32)(port) << 16 | (__u32)(protocol) << 8 | (length))

struct event {
	__u64 time; /* nanoseconds since boot */
	__u16 source_port;
	__u16 port;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u8 ingress;
	__u8 unused;
	__u32 rule; /* that denies; NO_RULE: none allows */
	__u32 subject;
	__u8 source[16];
	__u8 destination[16];
};

struct limit {
	__u64 window;
	__u64 count;
};

/* Hashes of our own, in arrays of buckets that are as large as a cache line (IPv6: two): the kernel's
 * take five such lines for a lookup, which are cold when a connection's first packet comes, and four
 * times the memory. Who finds its bucket full goes to the next, PROBES at most, and is counted in the
 * `head` of each that it passed: where none went on, nobody has to look on. See hash.rs. */
#define ENTRIES 3
#define PROBES 16
#define USED(head, entry) ((head) >> (29 + (entry)) & 1)
#define WENT_ON(head) ((head) & ((1 << 29) - 1))

#define TWO_COPIES(name, kind, flags, key_bytes, value_bytes)                                      \
	struct name##_table {                                                                      \
		__uint(type, kind);                                                                \
		__uint(max_entries, 1);                                                            \
		__uint(map_flags, flags);                                                          \
		__uint(key_size, key_bytes);                                                       \
		__uint(value_size, value_bytes);                                                   \
	};                                                                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                          \
		__uint(max_entries, 2);                                                            \
		__type(key, __u32);                                                                \
		__array(values, struct name##_table);                                              \
	} name SEC(".maps")

/* Those that can be mapped begin at a page, so that buckets do not cross cache lines. */
#define HASH(name, key_type, value_type)                                                           \
	struct name##_bucket {                                                                     \
		struct {                                                                           \
			key_type key;                                                              \
			value_type value;                                                          \
		} entries[ENTRIES];                                                                \
		__u32 head;                                                                        \
	};                                                                                         \
	TWO_COPIES(name, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE | BPF_F_INNER_MAP, sizeof(__u32),      \
		   sizeof(struct name##_bucket))

#define PREFIXES(name, key_type)                                                                   \
	TWO_COPIES(name, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, sizeof(key_type), sizeof(__u32))

HASH(addresses4, struct address4, struct known);
HASH(addresses6, struct address6, struct known);
HASH(rows, struct row_key, struct row);
HASH(ports, struct port_key, struct verdict);
PREFIXES(blocks4, struct block4);
PREFIXES(blocks6, struct block6);
PREFIXES(nets4, struct block4);
PREFIXES(nets6, struct block6);

/* Where this node's pods get their addresses from, for both copies. Beside the word, since no line
 * of the cache has to be waited for then. */
struct control {
	__u64 word; /* the number of the last change, whose lowest bit is the copy in force; flags */
	struct {
		struct {
			__u32 address, mask;
		} v4[2];
		struct {
			__u32 address[4], mask[4];
		} v6[2];
	} pod_ranges[POD_RANGES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

/* Packets by rule, and packets that no rule allows by subject; the last of these is for strangers. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} rule_packets SEC(".maps"), default_packets SEC(".maps");

/* Which rule or subject each of them counts for. User space alone reads and writes these. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} rule_names SEC(".maps"), default_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct limit));
} limits SEC(".maps");

/* Connections of which a packet was let through, by where the kernel keeps them.
 *
 * A packet of a connection that stands passes without lookups if nothing has changed since one was
 * judged: the tag names the connection's address and the number of the last change. It cannot name
 * another connection that got the address later: that one's first packet is judged, whatever stands
 * here, and if it passed under the same number, the others of its direction would, too. A tag is one
 * word, written at once. */
#define PASSED_BITS 15

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << PASSED_BITS);
	__type(key, __u32);
	__type(value, __u64);
} passed SEC(".maps");

/* At most so many events per subject and window; the rest is only counted. */
const volatile __u64 events_per_window = 32;
const volatile __u64 window_length = 100 * 1000 * 1000;

