# What `terraform plan -var-file=config.tfvars -var keyname=...` builds. See variables.tf.
region        = "us-east-1"
instance_type = "g4dn.xlarge" # or g5.xlarge, g6.xlarge, p5.4xlarge; prices are in README.md
spot          = false
data_gb       = 100
# cidr        = "203.0.113.7/32"  # without it: the address you call from
# repository  = "https://..."     # without it: push your checkout, as the output `setup` says
