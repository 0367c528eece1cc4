// Package userstate answers the Fn API's state requests of one bundle: user state from the bundle's transaction, side
// inputs and runner-held values from what is committed. It also writes side inputs.
//
// The protocol is StateRequest and StateKey of beam_fn_api.proto:
// https://github.com/apache/beam/blob/master/model/fn-execution/src/main/proto/org/apache/beam/model/fn_execution/v1/beam_fn_api.proto
// Keys, windows and map keys arrive encoded and are never decoded. Each may be empty: the empty byte string is a key.
//
// # Layout
//
// A user state is a cell in the key group of its key. Suffixes are made of components (see package state):
//
//	bag           key | window | sequence
//	multimap      key | window | map key | sequence
//	ordered list  key | window | sort key (8 bytes, in order) | sequence
//
// A side input is a cell in group 0, because any bundle may read all of it:
//
//	iterable      window | sequence
//	multimap      window | key | sequence
//
// # Pages
//
// Every get is answered in pages. Python decodes each page by itself, so no element may lie across two pages; the runner
// cannot tell where the elements of a bag end, but an append request of Python holds whole elements, and the Go SDK, whose
// append requests may hold pieces of elements, reads pages as one stream. Therefore pages end where append requests ended,
// and one huge append comes back as one huge page. A continuation token is the place where the next page begins. It needs
// nothing remembered, and stays good over bundles, because SDKs keep tokens together with cached first pages.
package userstate
