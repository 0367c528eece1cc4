package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tinyrunner/tinyrunner/checkpoint/objstore"
)

// Version is the newest version of the format that this package reads, and the one that it writes.
const Version = 2

// Kind says what an entry of the log, or another sealed object, is.
type Kind string

// The kinds.
const (
	KindClaim      Kind = "claim"
	KindCheckpoint Kind = "checkpoint"
	KindVoid       Kind = "void"
	KindEnd        Kind = "end"
	KindSavepoint  Kind = "savepoint"
	KindPlan       Kind = "plan"
)

// Trigger says why a checkpoint was made.
type Trigger string

// The triggers.
const (
	Periodic  Trigger = "periodic"
	Manual    Trigger = "manual"
	ForSave   Trigger = "savepoint"
	ForStop   Trigger = "stop"
	noTrigger Trigger = ""
)

// Roles of files.
const (
	RoleState    = "state"    // of a cut
	RolePipeline = "pipeline" // the job's own, as the next ones
	RoleOptions  = "options"
	RoleArtifact = "artifact"
)

// Manifest is what an entry of a job's log says, or a savepoint. FORMAT.md describes each field.
type Manifest struct {
	Kind    Kind   `json:"kind"`
	Job     string `json:"job"` // identity
	JobID   string `json:"job_id"`
	JobName string `json:"job_name"`

	Seq   int64 `json:"seq"`   // number of the entry; 0 in a savepoint
	Claim int64 `json:"claim"` // number of the owner's claim; 0 in a savepoint
	// Previous are the checkpoints to fall back to, newest first, by number: those that are kept beside this one. In a claim
	// the first is the newest checkpoint that there was.
	Previous []int64 `json:"previous,omitempty"`
	ID       int64   `json:"id,omitempty"` // of the checkpoint, as the engine counts

	Owner   Owner     `json:"owner"`
	Created time.Time `json:"created"`
	Trigger Trigger   `json:"trigger,omitempty"`
	How     string    `json:"how,omitempty"` // the end: how

	MaxParallelism int `json:"max_parallelism,omitempty"` // key groups
	Slots          int `json:"slots,omitempty"`

	Bytes    int64 `json:"bytes,omitempty"`    // of all Files
	Uploaded int64 `json:"uploaded,omitempty"` // bytes that were uploaded for this checkpoint

	Participants []Participant   `json:"participants,omitempty"`
	Meta         json.RawMessage `json:"meta,omitempty"` // the engine's, any JSON value
	JobFiles     []File          `json:"job_files,omitempty"`
	Files        []File          `json:"files,omitempty"` // the cut
}

// File is one immutable file.
type File struct {
	Path   string `json:"path"` // relative, with slashes, in the cut directory or in the directory of the job's own files
	Role   string `json:"role"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	Place
}

// Place says where in the store a content is.
type Place struct {
	Object string `json:"object"`           // relative to the job's or the savepoint's directory
	Offset int64  `json:"offset,omitempty"` // bytes, in a pack
	Pack   int64  `json:"pack,omitempty"`   // bytes of the object, which is a pack of several files; 0: it is the file alone
}

// Participant has something outside of the cut to make final once the checkpoint is complete.
type Participant struct {
	Name  string `json:"name"`
	Token []byte `json:"token"`
}

// Bounds of what a manifest may hold. Who reaches one gets an error when writing, not when reading.
const (
	maxSealed       = 32 << 20 // bytes of an entry
	maxFiles        = 100_000
	maxParticipants = 100_000
	maxRetain       = 1000
	maxPath         = 1024
	maxText         = 4096 // bytes of an id, a name
)

// ValidPath reports why p may not be the path of a file in a manifest: it has to stay within its directory on every
// system.
func ValidPath(p string) error {
	switch {
	case p == "":
		return errors.New("path is empty")
	case len(p) > maxPath:
		return fmt.Errorf("path %.40q... has %d bytes, at most %d are allowed", p, len(p), maxPath)
	case !fs.ValidPath(p) || p == "." || path.Clean(p) != p:
		return fmt.Errorf("path %q is not a clean relative path: it would leave its directory", p)
	case strings.ContainsAny(p, "\\:"):
		return fmt.Errorf("path %q has a backslash or a colon", p)
	}
	for _, r := range p {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return fmt.Errorf("path %q has a control character or is not UTF-8", p)
		}
	}
	return nil
}

// validate reports what is wrong with a manifest. Both writers and readers call it.
func (m *Manifest) validate() error {
	if err := m.validateHead(); err != nil {
		return err
	}
	if len(m.Participants) > maxParticipants {
		return fmt.Errorf("it has %d participants, at most %d are allowed", len(m.Participants), maxParticipants)
	}
	for _, p := range m.Participants {
		if p.Name == "" || len(p.Name) > maxText {
			return fmt.Errorf("participant name %.40q must have 1 to %d bytes", p.Name, maxText)
		}
	}
	if err := validFiles(m.Files, m.Kind, false); err != nil {
		return err
	}
	if err := validFiles(m.JobFiles, m.Kind, true); err != nil {
		return fmt.Errorf("job's own files: %w", err)
	}
	total := int64(0)
	for _, f := range m.Files {
		if f.Size > math.MaxInt64-total {
			return errors.New("the sizes of its files add up to more than 2^63 bytes")
		}
		total += f.Size
	}
	if m.Bytes != total || m.Uploaded < 0 {
		return fmt.Errorf("it says %d bytes, %d uploaded; its files have %d", m.Bytes, m.Uploaded, total)
	}
	return nil
}

func (m *Manifest) validateHead() error {
	inLog := true
	switch m.Kind {
	case KindClaim, KindVoid, KindEnd:
		if len(m.Files) > 0 {
			return fmt.Errorf("a %s has no files", m.Kind)
		}
	case KindCheckpoint:
	case KindSavepoint:
		inLog = false
	default:
		return fmt.Errorf("kind %.40q is not known", m.Kind)
	}
	switch {
	case inLog && (m.Seq < 1 || m.Claim < 1 || m.Claim > m.Seq):
		return fmt.Errorf("numbers seq %d, claim %d do not fit together", m.Seq, m.Claim)
	case !inLog && (m.Seq != 0 || m.Claim != 0 || len(m.Previous) > 0):
		return errors.New("a savepoint has no numbers of entries")
	case m.Kind == KindClaim && m.Claim != m.Seq:
		return errors.New("a claim must have its own number")
	case m.ID < 0 || m.Slots < 0 || m.MaxParallelism < 0:
		return errors.New("a count is negative")
	}
	if len(m.Previous) > maxRetain {
		return fmt.Errorf("it has %d previous checkpoints, at most %d are allowed", len(m.Previous), maxRetain)
	}
	newer := m.Seq
	for _, seq := range m.Previous {
		if seq < 1 || seq >= newer {
			return fmt.Errorf("previous checkpoints %v of entry %d do not fit together", m.Previous, m.Seq)
		}
		newer = seq
	}
	for _, s := range []string{m.Job, m.JobID, m.JobName, m.Owner.Host, m.How, string(m.Trigger)} {
		if len(s) > maxText {
			return fmt.Errorf("text %.40q... has %d bytes, at most %d are allowed", s, len(s), maxText)
		}
	}
	if inLog {
		if err := validJob(m.Job); err != nil {
			return err
		}
	}
	return m.Owner.validate()
}

// validJob reports why s is not the identity of a job.
func validJob(s string) error {
	if err := objstore.ValidName(s); err != nil {
		return fmt.Errorf("job identity: %w", err)
	}
	if strings.Contains(s, "/") {
		return fmt.Errorf("job identity %q has a slash: use Identity", s)
	}
	return nil
}

func validFiles(files []File, kind Kind, own bool) error {
	if len(files) > maxFiles {
		return fmt.Errorf("it has %d files, at most %d are allowed", len(files), maxFiles)
	}
	seen := make(map[string]bool, len(files))
	for _, f := range files {
		if err := ValidPath(f.Path); err != nil {
			return err
		}
		if seen[f.Path] {
			return fmt.Errorf("path %q comes twice", f.Path)
		}
		seen[f.Path] = true
		if f.Size < 0 {
			return fmt.Errorf("file %s has the size %d", f.Path, f.Size)
		}
		if ok := f.Role == RoleState; ok == own || !knownRole(f.Role) {
			return fmt.Errorf("file %s has the role %.40q", f.Path, f.Role)
		}
		if err := validObject(f, kind); err != nil {
			return err
		}
	}
	return nil
}

func knownRole(r string) bool {
	return r == RoleState || r == RolePipeline || r == RoleOptions || r == RoleArtifact
}

// validObject checks that the object's name is one that we would have given to this content, or to a pack with it.
func validObject(f File, kind Kind) error {
	sha, rest, ok := parseContent(f.Object)
	named := validTag(rest)
	if kind != KindSavepoint {
		_, _, named = parseOrigin(rest)
	}
	switch {
	case !validSHA(f.SHA256):
		return fmt.Errorf("file %s has the hash %.70q", f.Path, f.SHA256)
	case f.Pack < 0 || f.Offset < 0 || f.Offset > 0 && f.Pack == 0 || f.Pack > 0 && f.Offset > f.Pack-f.Size:
		return fmt.Errorf("file %s of %d bytes cannot be at %d of an object of %d", f.Path, f.Size, f.Offset, f.Pack)
	case !ok || !named || f.Pack == 0 && sha != f.SHA256:
		return fmt.Errorf("file %s with the hash %.70q cannot be the object %.200q", f.Path, f.SHA256, f.Object)
	}
	return nil
}
