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

static __always_inline void known_of(const struct packet *packet, const __u32 *address, __u32 copy,
				     struct known *known)
{
	struct known *found;
	void *table;

	if (packet->is_v6) {
		table = TABLE(addresses6, copy);
		found = table ? bpf_map_lookup_elem(table, address) : 0;
		APART(6);
	} else {
		table = TABLE(addresses4, copy);
		found = table ? bpf_map_lookup_elem(table, address) : 0;
		APART(4);
	}
	if (found)
		*known = *found;
	else
		*known = (struct known){ OPEN, OPEN, UNKNOWN, NO_CLASS };
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

/* One row: a port, ranges from the narrowest, any port, everything. 0: it says nothing. */
__noinline __u64 in_row(struct packet *packet, __u32 subject, __u32 peer, __u32 copy)
{
	struct row_key key = { subject, peer };
	struct port_key port = { subject, peer };
	struct verdict *found;
	__u32 lengths;
	struct row *row;
	void *table;

	if (!packet)
		return 0;
	copy &= 1;
	port.protocol = packet->protocol;
	/* Most verdicts are for one port, and that goes first anyway. */
	if (packet->has_port) {
		port.length = LENGTH_ONE;
		port.port = packet->port;
		table = TABLE(ports, copy);
		found = table ? bpf_map_lookup_elem(table, &port) : 0;
		if (found)
			return VERDICT(found->allow, found->rule);
	}
	table = TABLE(rows, copy);
	row = table ? bpf_map_lookup_elem(table, &key) : 0;
	if (!row)
		return 0;
	lengths = row->lengths;
	table = lengths && has_ports(packet->protocol) ? TABLE(ports, copy) : 0;
	for (int length = LENGTH_ONE - 1; table && length >= LENGTH_ANY; length--) {
		if (!(lengths & (1 << length)) || (length != LENGTH_ANY && !packet->has_port))
			continue;
		port.length = length;
		port.port = packet->port & ~(0xffff >> length);
		found = bpf_map_lookup_elem(table, &port);
		if (found)
			return VERDICT(found->allow, found->rule);
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
