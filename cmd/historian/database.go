package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// tables are created if they do not exist. Keys have the site, so that what one site sends is never
// taken for a record of another. The primary key of samples has the time, so that TimescaleDB can make
// it a hypertable.
const tables = `
CREATE TABLE IF NOT EXISTS samples (
  site text, namespace text, name text, device text, epoch bigint, sequence bigint, property text, time timestamptz,
  value jsonb, number double precision, quality text, reason text, clock text,
  PRIMARY KEY (site, device, epoch, sequence, property, time));
CREATE INDEX IF NOT EXISTS samples_of_a_property ON samples (namespace, name, property, time DESC);
CREATE TABLE IF NOT EXISTS writes (
  site text, device text, epoch bigint, sequence bigint, time timestamptz, record jsonb,
  PRIMARY KEY (site, device, epoch, sequence));
CREATE TABLE IF NOT EXISTS gaps (
  site text, stream text, created bigint, first bigint, last bigint, reason text, time timestamptz,
  PRIMARY KEY (site, stream, created, first));
CREATE TABLE IF NOT EXISTS unreadable (
  stream text, created bigint, sequence bigint, subject text, data bytea, problem text,
  PRIMARY KEY (stream, created, sequence));
CREATE TABLE IF NOT EXISTS positions (
  stream text PRIMARY KEY, created bigint, sequence bigint);`

// database stores rows in PostgreSQL.
type database struct{ pool *pgxpool.Pool }

func (d database) createTables(ctx context.Context) error {
	if _, err := d.pool.Exec(ctx, tables); err != nil {
		return fmt.Errorf("create tables: %w", err)
	}
	return nil
}

// Position returns the last record of a stream that is stored, 0 for none.
func (d database) Position(ctx context.Context, stream string, created int64) (uint64, error) {
	var sequence uint64
	err := d.pool.QueryRow(ctx, "SELECT sequence FROM positions WHERE stream = $1 AND created = $2", stream, created).Scan(&sequence)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("read the position in %s: %w", stream, err)
	}
	return sequence, nil
}

// batch is what was read of a stream at once: the records behind the position after, until last.
type batch struct {
	site, stream string
	// created is the creation time of the stream, ns since 1970. It names the stream if that was
	// deleted and created again.
	created     int64
	after, last uint64
	rows
	// messages are what the rows were decoded from, removed what the hub no longer had before and
	// between them.
	messages []message
	removed  []gap
}

// Store stores a batch in one transaction, with the position behind it. What has the key of a stored
// row is left out. It fails if the position is not the one that the batch follows: another program
// stores the same stream. A message with a value that PostgreSQL does not take, such as a text with a
// NUL, is stored as unreadable.
func (d database) Store(ctx context.Context, b batch) error {
	err := d.store(ctx, b, func(tx pgx.Tx) error { return insert(ctx, tx, b.rows, rows{gaps: b.removed}) })
	if isDataError(err) {
		err = d.store(ctx, b, func(tx pgx.Tx) error { return insertEach(ctx, tx, b) })
	}
	if err != nil {
		return fmt.Errorf("store records %d to %d of %s: %w", b.after+1, b.last, b.stream, err)
	}
	return nil
}

func (d database) store(ctx context.Context, b batch, insertRows func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if err := insertRows(tx); err != nil {
			return err
		}
		moved, err := tx.Exec(ctx, `INSERT INTO positions AS p VALUES ($1, $2, $3) ON CONFLICT (stream) DO UPDATE
			SET created = $2, sequence = $3 WHERE p.sequence = $4 AND p.created = $2 OR p.created <> $2 AND $4 = 0`, b.stream, b.created, b.last, b.after)
		if err == nil && moved.RowsAffected() == 0 {
			err = errMoved
		}
		return err
	})
}

func insert(ctx context.Context, tx pgx.Tx, all ...rows) error {
	inserts := &pgx.Batch{}
	for _, r := range all {
		r.queue(inserts)
	}
	return tx.SendBatch(ctx, inserts).Close()
}

// insertEach stores the messages one by one, those that PostgreSQL does not take as unreadable.
func insertEach(ctx context.Context, tx pgx.Tx, b batch) error {
	if err := insert(ctx, tx, rows{gaps: b.removed}); err != nil {
		return err
	}
	for _, m := range b.messages {
		var one rows
		one.add(m)
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return insert(ctx, tx, one) })
		if isDataError(err) {
			err = insert(ctx, tx, rows{unreadable: []unreadable{{m, err.Error()}}})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isDataError reports whether PostgreSQL refuses a value, which it would refuse again: class 22.
func isDataError(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && strings.HasPrefix(refused.Code, "22")
}

// text returns a text as PostgreSQL takes it: UTF-8 without NUL.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

var errMoved = errors.New("the position has changed: does another historian store the same stream?")

// insertSamples takes a slice for each column: one statement for thousands of rows.
const insertSamples = `INSERT INTO samples SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
	$7::text[], $8::timestamptz[], $9::jsonb[], $10::float8[], $11::text[], $12::text[], $13::text[]) ON CONFLICT DO NOTHING`

func columns(samples []sample) []any {
	return []any{
		column(samples, func(s sample) string { return s.site }),
		column(samples, func(s sample) string { return s.namespace }),
		column(samples, func(s sample) string { return s.name }),
		column(samples, func(s sample) string { return s.device }),
		column(samples, func(s sample) int64 { return s.epoch }),
		column(samples, func(s sample) int64 { return int64(s.sequence) }),
		column(samples, func(s sample) string { return s.property }),
		column(samples, func(s sample) time.Time { return s.time }),
		column(samples, func(s sample) string { return s.value }),
		column(samples, func(s sample) *float64 { return s.number }),
		column(samples, func(s sample) string { return s.quality }),
		column(samples, func(s sample) string { return s.reason }),
		column(samples, func(s sample) string { return s.clock }),
	}
}

func column[T any](samples []sample, of func(sample) T) []T {
	values := make([]T, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return values
}

func (r *rows) queue(inserts *pgx.Batch) {
	if len(r.samples) > 0 {
		inserts.Queue(insertSamples, columns(r.samples)...)
	}
	for _, w := range r.writes {
		inserts.Queue("INSERT INTO writes VALUES ($1,$2,$3,$4,$5,$6) ON CONFLICT DO NOTHING", w.site, w.device, w.epoch, w.sequence, w.time, w.record)
	}
	for _, g := range r.gaps {
		inserts.Queue("INSERT INTO gaps VALUES ($1,$2,$3,$4,$5,$6,$7) ON CONFLICT DO NOTHING", g.site, g.stream, g.created, g.from, g.to, g.reason, g.time)
	}
	for _, u := range r.unreadable {
		inserts.Queue("INSERT INTO unreadable VALUES ($1,$2,$3,$4,$5,$6) ON CONFLICT DO NOTHING", u.stream, u.created, u.sequence, text(u.subject), u.data, text(u.problem))
	}
}
