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

/* Flags of the tables in force, in the upper half of `control`. */
#define HAS_BLOCKS4 (1ULL << 32)
#define HAS_BLOCKS6 (1ULL << 33)

/* Of an address. One lookup answers for both ends of a connection. */
struct known {
	__u32 egress; /* class and flags; OPEN: not isolated */
	__u32 ingress;
	__u32 own; /* UNKNOWN: no pod's */
	__u32 group;
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
	__u32 subject;
	__u32 peer;
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
	__u32 subject;
	__u32 peer;
	__u16 port; /* host order, only the prefix's bits */
	__u8 protocol;
	__u8 length;
};

struct event {
	__u64 time; /* nanoseconds since boot */
	__u16 source_port;
	__u16 port;
	__u8 family; /* 4 or 6 */
	__u8 protocol;
	__u8 ingress;
	__u8 unused;
	__u8 source[16];
	__u8 destination[16];
};

struct limit {
	__u64 window;
	__u64 count;
};

#define TWO_COPIES(name, kind, key_type, value_type)                                               \
	struct name##_table {                                                                      \
		__uint(type, kind);                                                                \
		__uint(max_entries, 1);                                                            \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__uint(key_size, sizeof(key_type));                                                \
		__uint(value_size, sizeof(value_type));                                            \
	};                                                                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                          \
		__uint(max_entries, 2);                                                            \
		__type(key, __u32);                                                                \
		__array(values, struct name##_table);                                              \
	} name SEC(".maps")

TWO_COPIES(addresses4, BPF_MAP_TYPE_HASH, __u32, struct known);
TWO_COPIES(addresses6, BPF_MAP_TYPE_HASH, __u32[4], struct known);
TWO_COPIES(blocks4, BPF_MAP_TYPE_LPM_TRIE, struct block4, __u32);
TWO_COPIES(blocks6, BPF_MAP_TYPE_LPM_TRIE, struct block6, __u32);
TWO_COPIES(nets4, BPF_MAP_TYPE_LPM_TRIE, struct block4, __u32);
TWO_COPIES(nets6, BPF_MAP_TYPE_LPM_TRIE, struct block6, __u32);
TWO_COPIES(rows, BPF_MAP_TYPE_HASH, struct row_key, struct row);
TWO_COPIES(ports, BPF_MAP_TYPE_HASH, struct port_key, struct verdict);

/* The number of the last change, whose lowest bit is the copy in force, and flags. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} control SEC(".maps");

/* Packets by rule, and packets that no rule allows by subject. */
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

