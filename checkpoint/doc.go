// Package checkpoint keeps one job's checkpoints in an object store, so that the job goes on where it was after its
// process, or its machine, is gone; and it lets only one process at a time do so.
//
// It knows nothing of state and engine: a cut is a directory of files. FORMAT.md describes what lies in the store.
//
// # The log
//
// A job has a log of entries with rising numbers. Each is made by a conditional Create of the number after the newest:
//
//	claim       a process takes the job over; names the job's own files (pipeline, options, artifacts)
//	checkpoint  a complete checkpoint; its Create is the commit point
//	void        takes the number of a checkpoint whose fate was uncertain, so that it cannot appear later
//	end         the job is finished or cancelled; there is nothing to resume
//
// Whoever wants the job Creates a claim after the newest entry. An older owner that then tries to publish meets the claim
// and is fenced (FencedError). Old entries are deleted, so a process that slept for long could find its number free again:
// whoever has created an entry looks whether there are newer ones, and if so he is fenced. His entry means nothing: each
// checkpoint and each claim names the checkpoints to fall back to, and no others count.
//
// # Files
//
// Files are immutable. Their names hold the content's hash, the number of the entry they were uploaded for, and the owner's
// random attempt id, so no two owners ever write one name, and a name that was planned for deletion is never used again. A
// checkpoint reuses a file only if the owner uploaded it itself, or the manifest it restored or published last names it.
//
// The small files of a checkpoint are uploaded as one object, a pack. It is deleted when no entry names any of them; when a
// checkpoint needs little of a pack, it uploads that again.
//
// # Garbage
//
// What is to be deleted is written first, as a plan; then its author looks whether he still owns the job; then the entries
// are deleted, then the files, then the plan. An author that fell asleep in the middle may go on deleting after he was fenced.
// But a claimer has seen his plan: to it the checkpoints in the plan are gone. A plan that is written after the claim
// is never carried out by its author. Retire plans what retention drops; Sweep, after a claim, carries out plans of older
// owners and plans the files that no entry names.
//
// # Who may call what
//
// A Store is safe for concurrent use. Save, Restore, Retire, Settle and End run one at a time; Sweep only deletes while none of
// them runs. No goroutine outlives a call.
//
// # Files of the package
//
//	manifest.go   what an entry says, and what is allowed in it
//	codec.go      entries as bytes
//	identity.go   names of jobs, owners
//	layout.go     names of objects
//	errors.go     FencedError, CorruptError, UncertainError
//	log.go        append, confirm, settle
//	store.go      Config, Store, candidates for a restore
//	claim.go      Claim
//	save.go       Save: hash, upload, publish
//	pack.go       packs of small files: which, and how they are read
//	index.go      what is known about files on the local disk
//	restore.go    Restore, FetchJob
//	plan.go       plans, written and carried out
//	retire.go     Retire, Sweep, End
//	forget.go     Forget: the end of a job that nobody runs
//	savepoint.go  savepoints
//	jobs.go       Jobs: what could be resumed
package checkpoint
