package filestore

import (
	"time"

	"go.uber.org/zap"
)

// progress logs the progress of a long check.
type progress struct {
	log         *zap.Logger
	done, total int64 // bytes
	next        time.Time
}

func (p *progress) add(bytes int64) {
	p.done += bytes
	if now := time.Now(); now.After(p.next) {
		p.log.Info("stored messages are being checked", zap.Int64("bytes", p.done), zap.Int64("of", p.total))
		p.next = now.Add(progressInterval)
	}
}
