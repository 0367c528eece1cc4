// Package flow holds elements on their way between stages: blocks of encoded elements, the queues they wait in, and the
// one pool that bounds what all of them keep in memory. What does not fit spills to a file and comes back when it is read.
//
// The package knows nothing of Beam's encodings but that an element is a run of bytes with an event timestamp. It uses the
// standard library only.
//
// A Builder copies elements into a buffer and closes it as a Block when it is full (DefaultBlockSize). A block never
// changes and is counted by reference: whoever holds a reference may read it, and the last Release gives back its memory
// and its place on disk. Queues own one reference of each block in them.
//
// The Pool counts the bytes of all buffers and blocks and never refuses any: memory goes over the limit by what is
// open in builders and loaded for reading, while every block that closes over the limit goes to disk. To keep the sum
// down is the part of those who read Used and Over and stop producing.
//
// A spilled block lies in a segment, a file of some tens of MiB that blocks are appended to. A segment goes when the last
// block in it is released, so that disk space follows what is queued without any compaction. Segments have no name
// in the file system while they are in use (where it allows that): nothing is left behind by a process that is killed.
package flow
