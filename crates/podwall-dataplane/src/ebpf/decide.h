/* What do the tables say of a packet? */
#pragma once

#include "packet.h"
#include "tables.h"

/* One copy's table of two. */
#define TABLE(name, copy) bpf_map_lookup_elem(&name, &(copy))

/* Functions that are not static are verified by themselves, once, whoever calls them: inlined eight
 * times over they are too many paths for the verifier. A verdict fits into one number. */
#define VERDICT(allow, rule) ((__u64)(allow) << 32 | (rule))
#define ALLOW_OF(verdict) ((__u32)((verdict) >> 32))
#define RULE_OF(verdict) ((__u32)(verdict))

/* The verifier puts a table's own lookup in the place of a call, but not of one that serves two
 * tables. Different numbers keep the compiler from making one of two. */
#define APART(number) asm volatile("" ::"i"(number))

/* Whether keys are alike. Not memcmp, which the compiler may call. */
#define ALIKE(key, other)                                                                          \
	({                                                                                         \
		__u32 differs = 0;                                                                 \
		for (int word = 0; word < sizeof(*(key)) / 4; word++)                              \
			differs |= (key)->word[word] ^ (other)->word[word];                        \
		!differs;                                                                          \
	})

/* Defines `find_NAME(copy, key)`: the value in that copy of a table of ours, or 0. */
#define FIND(name, key_type, value_type)                                                           \
	static __always_inline value_type *find_##name(__u32 copy, const key_type *key)            \
	{                                                                                          \
		struct bpf_map *table = TABLE(name, copy);                                         \
		struct name##_bucket *bucket;                                                      \
		__u32 count, at, hash = 0;                                                         \
                                                                                                   \
		if (!table)                                                                        \
			return 0;                                                                  \
		for (int i = 0; i < sizeof(*key) / 4; i++) {                                       \
			hash = (hash ^ key->word[i]) * 0x9e3779b1;                                 \
			hash ^= hash >> 15;                                                        \
		}                                                                                  \
		hash *= 0x85ebca6b;                                                                \
		hash = (hash ^ hash >> 13) * 0xc2b2ae35;                                           \
		count = table->max_entries;                                                        \
		at = (__u64)hash * count >> 32;                                                    \
		for (int probe = 0; probe < PROBES; probe++) {                                     \
			bucket = bpf_map_lookup_elem(table, &at);                                  \
			if (!bucket)                                                               \
				return 0;                                                          \
			for (int i = 0; i < ENTRIES; i++)                                          \
				if (ALIKE(&bucket->entries[i].key, key) && USED(bucket->head, i))  \
					return &bucket->entries[i].value;                          \
			if (!WENT_ON(bucket->head))                                                \
				return 0;                                                          \
			at = at + 1 < count ? at + 1 : 0;                                          \
		}                                                                                  \
		return 0;                                                                          \
	}

FIND(addresses4, struct address4, struct known)
FIND(addresses6, struct address6, struct known)
FIND(rows, struct row_key, struct row)
FIND(ports, struct port_key, struct verdict)

__noinline int known_of(struct packet *packet, __u32 destination, __u32 copy, struct known *known)
{
	struct known *found;
	__u32 *address;

	if (!packet || !known)
		return 0;
	copy &= 1;
	address = destination ? packet->destination : packet->source;
	if (packet->is_v6) {
		struct address6 key = { { address[0], address[1], address[2], address[3] } };

		found = find_addresses6(copy, &key);
		APART(6);
	} else {
		struct address4 key = { { address[0] } };

		found = find_addresses4(copy, &key);
		APART(4);
	}
	*known = found ? *found : (struct known){ UNLISTED, UNLISTED, UNKNOWN, NO_CLASS };
	return 0;
}

/* Whether this node's pods get their addresses from where one end is. */
__noinline int in_pod_ranges(struct packet *packet, __u32 destination, __u64 word)
{
	struct control *found;
	__u32 zero = 0, count, *address;

	found = bpf_map_lookup_elem(&control, &zero);
	if (!packet || !found)
		return 0;
	address = destination ? packet->destination : packet->source;
	count = packet->is_v6 ? POD_RANGES6(word) : POD_RANGES4(word);
	for (int i = 0; i < POD_RANGES && i < count; i++) {
		if (packet->is_v6) {
			__u32 *net = found->pod_ranges[i].v6[word & 1].address;
			__u32 *mask = found->pod_ranges[i].v6[word & 1].mask;

			if (!(((address[0] & mask[0]) ^ net[0]) | ((address[1] & mask[1]) ^ net[1]) |
			      ((address[2] & mask[2]) ^ net[2]) | ((address[3] & mask[3]) ^ net[3])))
				return 1;
		} else if ((address[0] & found->pod_ranges[i].v4[word & 1].mask) ==
			   found->pod_ranges[i].v4[word & 1].address) {
			return 1;
		}
	}
	return 0;
}

/* Who isolates an end in its direction: a class, STRANGER, or nobody: OPEN. */
static __always_inline __u32 subject_of(struct packet *packet, __u32 destination, __u32 listed,
					__u64 word)
{
	if (listed != UNLISTED)
		return listed;
	return HAS_POD_RANGES(word) && in_pod_ranges(packet, destination, word) ? STRANGER : OPEN;
}

__noinline __u32 block_of(struct packet *packet, __u32 ingress, __u32 copy)
{
	__u32 *address, *class;
	void *table;

	if (!packet)
		return NO_CLASS;
	copy &= 1;
	address = ingress ? packet->source : packet->destination;
	if (packet->is_v6) {
		struct block6 key = { 128, { address[0], address[1], address[2], address[3] } };

		table = TABLE(blocks6, copy);
		class = table ? bpf_map_lookup_elem(table, &key) : 0;
		APART(6);
	} else {
		struct block4 key = { 32, address[0] };

		table = TABLE(blocks4, copy);
		class = table ? bpf_map_lookup_elem(table, &key) : 0;
		APART(4);
	}
	return class ? *class : NO_CLASS;
}

__noinline __u32 net_of(struct packet *packet, __u32 ingress, __u32 copy)
{
	__u32 *address, *class;
	void *table;

	if (!packet)
		return NO_CLASS;
	copy &= 1;
	address = ingress ? packet->source : packet->destination;
	if (packet->is_v6) {
		struct block6 key = { 128, { address[0], address[1], address[2], address[3] } };

		table = TABLE(nets6, copy);
		class = table ? bpf_map_lookup_elem(table, &key) : 0;
		APART(6);
	} else {
		struct block4 key = { 32, address[0] };

		table = TABLE(nets4, copy);
		class = table ? bpf_map_lookup_elem(table, &key) : 0;
		APART(4);
	}
	return class ? *class : NO_CLASS;
}

/* A peer's own class. */
static __always_inline __u32 own_of(struct packet *packet, __u64 peer, __u32 ingress, __u64 control)
{
	if ((__u32)peer != UNKNOWN)
		return peer;
	if (!(control & (packet->is_v6 ? HAS_BLOCKS6 : HAS_BLOCKS4)))
		return NO_CLASS;
	return block_of(packet, ingress, control & 1);
}

__noinline __u64 port_verdict(struct port_key *key, __u32 copy)
{
	struct verdict *found = key ? find_ports(copy & 1, key) : 0;

	return found ? VERDICT(found->allow, found->rule) : 0;
}

/* One row: a port, ranges from the narrowest, any port, everything. 0: it says nothing. */
__noinline __u64 in_row(struct packet *packet, __u32 subject, __u32 peer, __u32 copy)
{
	struct row_key key = { { subject, peer } };
	struct port_key port = { { subject, peer } };
	__u64 verdict;
	__u32 lengths;
	struct row *row;

	if (!packet)
		return 0;
	copy &= 1;
	/* Most verdicts are for one port, and that goes first anyway. */
	if (packet->has_port) {
		port.word[2] = PORT_WORD(packet->port, packet->protocol, LENGTH_ONE);
		verdict = port_verdict(&port, copy);
		if (verdict)
			return verdict;
	}
	row = find_rows(copy, &key);
	if (!row)
		return 0;
	lengths = has_ports(packet->protocol) ? row->lengths : 0;
	for (int length = LENGTH_ONE - 1; length >= LENGTH_ANY; length--) {
		if (!(lengths & (1 << length)) || (length != LENGTH_ANY && !packet->has_port))
			continue;
		port.word[2] = PORT_WORD(packet->port & ~(0xffff >> length), packet->protocol, length);
		verdict = port_verdict(&port, copy);
		if (verdict)
			return verdict;
	}
	return row->otherwise.allow ? VERDICT(row->otherwise.allow, row->otherwise.rule) : 0;
}

/* The first row that says something; none does: denied, by no rule. `local`: class and flags; `peer`:
 * own class in the lower half, group in the upper. */
__noinline __u64 judge(struct packet *packet, __u32 local, __u64 peer, __u32 ingress, __u64 control)
{
	__u32 subject = local & CLASS, class;
	__u64 verdict = 0;

	if (!packet)
		return 0;
	if (local & HAS_OWN) {
		class = own_of(packet, peer, ingress, control);
		if (class != NO_CLASS)
			verdict = in_row(packet, subject, class, control & 1);
	}
	if (!verdict && local & HAS_GROUP) {
		class = peer >> 32;
		if (class != NO_CLASS)
			verdict = in_row(packet, subject, class, control & 1);
	}
	if (!verdict && local & HAS_NET) {
		class = net_of(packet, ingress, control & 1);
		if (class != NO_CLASS)
			verdict = in_row(packet, subject, class, control & 1);
	}
	if (!verdict && local & HAS_ANY)
		verdict = in_row(packet, subject, PEER_ANY, control & 1);
	return verdict ? verdict : VERDICT(1, NO_RULE);
}
