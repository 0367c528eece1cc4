package flow

import "iter"

const DefaultBlockSize = 64 << 10

type Pool struct{}

func NewPool(limit int64, dir string) (*Pool, error) { return nil, nil }
func (p *Pool) Limit() int64                         { return 0 }
func (p *Pool) Used() int64                          { return 0 }
func (p *Pool) Peak() int64                          { return 0 }
func (p *Pool) Spilled() int64                       { return 0 }
func (p *Pool) Over(fraction float64) bool           { return false }
func (p *Pool) Close() error                         { return nil }
func (p *Pool) NewBuilder() *Builder                 { return nil }

type Data struct {
	Bytes []byte
	Ends  []uint32
}

func (d Data) Len() int             { return len(d.Ends) }
func (d Data) Element(i int) []byte { return nil }

type Block struct{}

func (b *Block) Len() int            { return 0 }
func (b *Block) Size() int64         { return 0 }
func (b *Block) MinTimestamp() int64 { return 0 }
func (b *Block) Data() (Data, error) { return Data{}, nil }

// ReadInto is Data without keeping what it read: a spilled block is read into scratch's memory (grown if need be).
func (b *Block) ReadInto(scratch Data) (Data, error) { return Data{}, nil }
func (b *Block) Retain()                             {}
func (b *Block) Release()                            {}
func (b *Block) Slice(from, to int) (*Block, error)  { return nil, nil }

type Builder struct{}

func (b *Builder) Append(elem []byte, timestamp int64) error { return nil }

// AvailableBuffer returns an empty slice of the current block's free tail: append one element to it, hand it to Append.
func (b *Builder) AvailableBuffer() []byte   { return nil }
func (b *Builder) Finish() ([]*Block, error) { return nil, nil }
func (b *Builder) Discard()                  {}
func (b *Builder) Len() int                  { return 0 }
func (b *Builder) Size() int64               { return 0 }

type Queue struct{}

func (q *Queue) Push(blocks ...*Block)                         {}
func (q *Queue) PushFront(blocks ...*Block)                    {}
func (q *Queue) Take(maxElements int, maxBytes int64) []*Block { return nil }
func (q *Queue) Len() int                                      { return 0 }
func (q *Queue) Size() int64                                   { return 0 }
func (q *Queue) MinTimestamp() (int64, bool)                   { return 0, false }
func (q *Queue) Clear()                                        {}
func (q *Queue) All() iter.Seq[*Block]                         { return nil }
