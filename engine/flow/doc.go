// Package flow holds elements on their way between stages: blocks of encoded elements, the queues they wait in, and the
// one pool that bounds what all of them keep in memory. What does not fit spills to a file and comes back when it is read.
//
// The package knows nothing of Beam's encodings but that an element is a run of bytes with an event timestamp. It uses the
// standard library only.
package flow
