package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/aws_msk_iam_v2"
)

// MSKConfig is for AWS_MSK_IAM, by which Amazon MSK knows who IAM says we are. The
// credentials are those that the AWS SDK finds: environment, shared files, web
// identity (EKS), container or instance role; they are fetched again before they end.
type MSKConfig struct {
	Region string // of the cluster; empty: as the AWS SDK finds it
}

// mechanism reads the environment and shared files, and asks nobody.
func (c MSKConfig) mechanism() (sasl.Mechanism, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(c.Region))
	if err != nil {
		return nil, fmt.Errorf("kafka sasl: AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return nil, errors.New("kafka sasl: AWS_MSK_IAM needs a region: configure it, or set AWS_REGION")
	}
	return mskIAM{aws_msk_iam_v2.NewMechanism(cfg)}, nil
}

// mskIAM says what it was about when it fails.
type mskIAM struct{ sasl.Mechanism }

// Start signs a request to connect to the broker, which holds for five minutes.
func (m mskIAM) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	s, first, err := m.Mechanism.Start(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("kafka sasl: sign with AWS credentials: %w", err)
	}
	return s, first, nil
}
