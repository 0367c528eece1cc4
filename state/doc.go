// Package state keeps the keyed state, the timers and the watermark holds of one job in one Pebble database.
//
// # Keys
//
// An entry is addressed by (key group, cell, suffix) and ordered like that: 2 bytes group, 4 bytes cell, suffix, all big
// endian. A cell is a number that the database gives to a name for ever (DB.Cell); the suffix is the caller's, made of
// prefix-free components (AppendComponent) so that a prefix scan meets nothing foreign. The package keeps its own entries
// in reserved cells and in the reserved group 0xffff: timers by identity, timers by fire time, holds, and the description
// of the database.
//
// # Transactions
//
// A Tx is one bundle's view. It collects writes in memory, reads them merged over what is committed, and Commit applies
// all of them in one Pebble batch. Discard forgets them. Several Tx may be open at once as long as no two touch the same
// key: there is no conflict detection, because the engine runs one bundle of a key at a time.
//
// A bag (Tx.Append) is a run of chunk entries: prefix + 8-byte sequence. Appending never reads, what one Tx appends to one
// prefix shares chunks of up to 64 KiB, and no bag is ever whole in memory. Sequences rise for ever: their upper bits are
// an epoch that grows each time the database is opened. Sequence 0 is used by the first append after a DeletePrefix, so
// that clearing and writing one value over and over leaves one key, not a trail of tombstones.
//
// # Durability
//
// There is no write-ahead log: what is durable is a Cut, a hard-linked copy that Open takes; cuts can share their links. A
// database that is closed, or whose process dies, holds whatever Pebble happened to flush. That is consistent but of no use to
// the engine, which goes back to a Cut. Nothing waits for the disk: what must outlive the machine is a copy of a Cut elsewhere.
//
// # Files
//
// Values of some size are not in the tables but in files beside them (Pebble's value separation), which a compaction does not
// write again: of random updates, a checkpoint uploads less than twice the bytes that were committed, where it was thirteen times,
// at the price of a state that may take twice its size. Tables keep bloom filters of the user keys of a cell, so
// that reading a value looks into the few tables that may have something of its key (comparer.go).
//
// # Memory
//
// One Cache is shared by all databases of a process. Memtables are small and charged to it. Per timer the package keeps
// nothing in memory; per (owner, domain, group) it keeps one lower bound for the next timer; per owner it keeps counts of
// at most maxHoldBuckets distinct holds.
package state
